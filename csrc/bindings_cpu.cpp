// The Python face of csrc/cpu: raw addresses, sizes and a thread count in, results into memory of the caller. The
// launchers in unitok_kernels/ops/<op>/cpu.py and unitok_kernels/numpy.py have checked every argument.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pthread.h>

#include <optional>

#include "api/codeword_statistics.h"
#include "api/fma_peak.h"
#include "api/hsic.h"
#include "api/kmeans.h"
#include "api/moe_residual_encode.h"
#include "api/nearest_codeword.h"
#include "api/ordered_linear.h"
#include "api/residual_decode.h"
#include "api/residual_encode.h"
#include "api/residual_loss.h"
#include "api/residual_straight_through.h"
#include "api/sinkhorn_assign.h"
#include "main_interpreter.h"
#include "runtime/parallel.h"
#include "simd/isa.h"

namespace py = pybind11;
using Address = std::uintptr_t;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

unitok::Rows rows(Address address, int type, int64_t count, int64_t width) {
  return {at<const void>(address), static_cast<unitok::Float>(type), count, width};
}

// Python's name of its main thread, the one that runs handlers of signals. In a forked child that is the forking
// thread.
unsigned long main_thread = 0;

// Runs the handlers of signals that have come, such as Ctrl-C's; throws what they raise.
void answer_signals() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Lets other threads run Python during a call, and the main thread answer signals. Other threads never wait for that.
class Released {
 public:
  Released() {
    if (PyThread_get_thread_ident() == main_thread) interruptible_.emplace(answer_signals);
  }

 private:
  py::gil_scoped_release release_;
  std::optional<unitok::Interruptible> interruptible_;
};

}  // namespace

#define PyInit__cpu init_cpu_in_main_interpreter
PYBIND11_MODULE(_cpu, m) {
  UNITOK_NEEDS_MAIN_INTERPRETER(_cpu);
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
  m.doc() = "UniTok's CPU kernels. Takes raw addresses: call them through unitok_kernels.";

  m.def("instruction_set", [] { return unitok::isa_name(unitok::isa()); });
  m.def("instruction_sets", &unitok::available_isas);
  m.def("use_instruction_set", &unitok::use_isa);

  m.def("fma_peak", &unitok::fma_peak, py::call_guard<Released>());

  m.def(
      "codeword_statistics",
      [](Address x, int type, int64_t count, int64_t width, Address codes, int64_t codewords, Address sums,
         Address counts, int threads) {
        return unitok::codeword_statistics(rows(x, type, count, width), at<const int64_t>(codes), codewords,
                                           at<float>(sums), at<int64_t>(counts), threads);
      },
      py::call_guard<Released>());

  m.def(
      "hsic",
      [](Address x, int64_t x_width, Address z, int64_t z_width, Address segments, int64_t count, int64_t num_segments,
         double bandwidth, bool normalised, Address values, Address pull, int threads) {
        return unitok::hsic(at<const float>(x), x_width, at<const float>(z), z_width, at<const int64_t>(segments),
                            count, num_segments, at<float>(values), at<float>(pull), {bandwidth, normalised, threads});
      },
      py::call_guard<Released>());

  m.def(
      "kmeans",
      [](Address x, int64_t count, int64_t width, Address codebook, int64_t codewords, int64_t iterations,
         bool balanced, Address codes, int threads) {
        unitok::kmeans(at<const float>(x), count, width, at<float>(codebook), codewords, iterations, balanced,
                       at<int64_t>(codes), threads);
      },
      py::call_guard<Released>());

  m.def(
      "kmeans_start",
      [](Address x, int64_t count, int64_t width, int64_t codewords, Address draws, Address chosen, int threads) {
        unitok::kmeans_start(at<const float>(x), count, width, codewords, at<const double>(draws), at<int64_t>(chosen),
                             threads);
      },
      py::call_guard<Released>());

  m.def(
      "moe_residual_encode",
      [](Address z, int type, int64_t count, int64_t width, Address codebooks, int64_t experts, int64_t levels,
         int64_t codewords, Address expert_ids, Address expert_weights, int64_t slots, Address shared_codebooks,
         int64_t shared_levels, int64_t shared_codewords, float shared_weight, Address combined, Address codes,
         Address shared_codes, Address level_error, Address shared_error, Address counts, int threads, bool fast,
         bool stats) {
        return unitok::moe_residual_encode(
            rows(z, type, count, width), {at<const float>(codebooks), experts, levels, codewords},
            {at<const int64_t>(expert_ids), at<const float>(expert_weights), slots},
            {at<const float>(shared_codebooks), shared_levels > 0, shared_levels, shared_codewords}, shared_weight,
            {at<void>(combined), at<int64_t>(codes), at<int64_t>(shared_codes), at<float>(level_error),
             at<float>(shared_error), at<int64_t>(counts)},
            {threads, fast, stats});
      },
      py::call_guard<Released>());

  m.def(
      "moe_residual_encode_backward",
      [](Address gradient, int64_t count, int64_t width, Address codebooks, int64_t experts, int64_t levels,
         int64_t codewords, Address expert_ids, Address expert_weights, int64_t slots, Address codes,
         int64_t shared_levels, int64_t shared_codewords, float shared_weight, Address shared_codes, Address by_z,
         Address by_weights, Address by_codebooks, Address by_shared, int threads) {
        unitok::moe_residual_encode_backward(
            at<const float>(gradient), count, width, {at<const float>(codebooks), experts, levels, codewords},
            {at<const int64_t>(expert_ids), at<const float>(expert_weights), slots}, at<const int64_t>(codes),
            {nullptr, shared_levels > 0, shared_levels, shared_codewords}, shared_weight,
            at<const int64_t>(shared_codes), at<float>(by_z), at<float>(by_weights), at<float>(by_codebooks),
            at<float>(by_shared), threads);
      },
      py::call_guard<Released>());

  m.def(
      "nearest_codeword",
      [](Address x, int type, int64_t count, int64_t width, Address codebook, int64_t codewords, Address codes,
         Address squared_distance, Address counts, int threads, bool fast, bool stats) {
        return unitok::nearest_codeword(rows(x, type, count, width), at<const float>(codebook), codewords,
                                        at<int64_t>(codes), at<float>(squared_distance), at<int64_t>(counts),
                                        {threads, fast, stats});
      },
      py::call_guard<Released>());

  m.def(
      "ordered_linear",
      [](Address x, bool x_wide, int64_t count, int64_t width, Address weight, bool weight_wide, int64_t outputs,
         Address bias, bool relu, Address y, int threads) {
        unitok::ordered_linear({at<const void>(x), x_wide, count, width},
                               {at<const void>(weight), weight_wide, outputs, width}, at<const double>(bias), relu,
                               at<double>(y), threads);
      },
      py::call_guard<Released>());

  m.def(
      "residual_decode",
      [](Address codes, int64_t count, int64_t levels, Address codebooks, int type, int64_t codewords, int64_t width,
         Address quantized, bool check, int threads) {
        return unitok::residual_decode(at<const int64_t>(codes), count, levels,
                                       rows(codebooks, type, levels * codewords, width), at<void>(quantized), check,
                                       threads);
      },
      py::call_guard<Released>());

  m.def(
      "residual_decode_backward",
      [](Address gradient, int type, int64_t count, int64_t width, Address codes, int64_t levels, int64_t codewords,
         Address by_codebooks, int threads) {
        unitok::residual_decode_backward(rows(gradient, type, count, width), at<const int64_t>(codes), levels,
                                         codewords, at<void>(by_codebooks), threads);
      },
      py::call_guard<Released>());

  m.def(
      "residual_encode",
      [](Address z, int type, int64_t count, int64_t width, Address codebooks, int64_t levels, int64_t codewords,
         Address codes, Address quantized, Address level_error, Address counts, int threads, bool fast, bool stats) {
        return unitok::residual_encode(rows(z, type, count, width), at<const float>(codebooks), levels, codewords,
                                       at<int64_t>(codes), at<void>(quantized), at<float>(level_error),
                                       at<int64_t>(counts), {threads, fast, stats});
      },
      py::call_guard<Released>());

  m.def(
      "residual_loss",
      [](Address z, int type, int64_t count, int64_t width, Address codes, Address codebooks, int64_t experts,
         int64_t levels, int64_t codewords, Address expert_ids, int64_t slots, float codebook_weight,
         float commitment_weight, Address loss, Address by_z, Address by_codebooks, int threads) {
        return unitok::residual_loss(rows(z, type, count, width), at<const int64_t>(codes),
                                     {at<const float>(codebooks), experts, levels, codewords},
                                     at<const int64_t>(expert_ids), slots, {codebook_weight, commitment_weight},
                                     at<float>(loss), at<float>(by_z), at<float>(by_codebooks), threads);
      },
      py::call_guard<Released>());

  m.def(
      "residual_straight_through",
      [](Address z, int type, int64_t count, int64_t width, Address codes, Address codebooks, int64_t levels,
         int64_t codewords, Address quantized, Address errors, Address sums, Address counts, int threads) {
        unitok::residual_straight_through(rows(z, type, count, width), at<const int64_t>(codes),
                                          {at<const float>(codebooks), 1, levels, codewords}, at<void>(quantized),
                                          at<float>(errors), at<float>(sums), at<int64_t>(counts), threads);
      },
      py::call_guard<Released>());

  m.def(
      "residual_straight_through_backward",
      [](Address gradient, Address pulls, Address z, int type, int64_t count, int64_t width, Address codes,
         Address codebooks, int64_t levels, int64_t codewords, int estimator, Address by_z, Address by_codebooks,
         int threads) {
        unitok::residual_straight_through_backward(
            at<const float>(gradient), at<const float>(pulls), rows(z, type, count, width), at<const int64_t>(codes),
            {at<const float>(codebooks), 1, levels, codewords}, static_cast<unitok::Estimator>(estimator),
            at<float>(by_z), at<float>(by_codebooks), threads);
      },
      py::call_guard<Released>());

  m.def(
      "sinkhorn_assign",
      [](Address x, int64_t count, int64_t width, Address codebook, int64_t codewords, double epsilon,
         int64_t iterations, Address codes, int threads) {
        return unitok::sinkhorn_assign(at<const float>(x), count, width, at<const float>(codebook), codewords, epsilon,
                                       iterations, at<int64_t>(codes), threads);
      },
      py::call_guard<Released>());
}
#undef PyInit__cpu
UNITOK_INIT(_cpu, init_cpu_in_main_interpreter)
