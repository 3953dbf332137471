// The Python face of csrc/cpu: raw addresses, sizes and a thread count in, results into memory of the caller. The
// launchers in unitok_kernels/ops/<op>/cpu.py and unitok_kernels/numpy.py have checked every argument.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "hsic.h"
#include "isa.h"
#include "residual_encode.h"
#include "sinkhorn_assign.h"

namespace py = pybind11;
using Address = std::uintptr_t;
using py::gil_scoped_release;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

unitok::Rows rows(Address address, int type, int64_t count, int64_t width) {
  return {at<const void>(address), static_cast<unitok::Float>(type), count, width};
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "UniTok's CPU kernels. Takes raw addresses: call them through unitok_kernels.";

  m.def("instruction_set", [] { return unitok::isa_name(unitok::isa()); });
  m.def("instruction_sets", &unitok::available_isas);
  m.def("use_instruction_set", &unitok::use_isa);

  m.def(
      "hsic",
      [](Address x, int64_t x_width, Address z, int64_t z_width, Address segments, int64_t count, int64_t num_segments,
         double bandwidth, bool normalised, Address values, Address pull, int threads) {
        return unitok::hsic(at<const float>(x), x_width, at<const float>(z), z_width, at<const int64_t>(segments), count,
                            num_segments, at<float>(values), at<float>(pull), {bandwidth, normalised, threads});
      },
      py::call_guard<gil_scoped_release>());

  m.def(
      "residual_encode",
      [](Address z, int type, int64_t count, int64_t width, Address codebooks, int64_t levels, int64_t codewords,
         Address codes, Address quantized, Address level_error, Address counts, int threads, bool fast, bool stats) {
        return unitok::residual_encode(rows(z, type, count, width), at<const float>(codebooks), levels, codewords,
                                       at<int64_t>(codes), at<void>(quantized), at<float>(level_error),
                                       at<int64_t>(counts), {threads, fast, stats});
      },
      py::call_guard<gil_scoped_release>());

  m.def(
      "sinkhorn_assign",
      [](Address x, int64_t count, int64_t width, Address codebook, int64_t codewords, double epsilon,
         int64_t iterations, Address codes, int threads) {
        return unitok::sinkhorn_assign(at<const float>(x), count, width, at<const float>(codebook), codewords, epsilon,
                                       iterations, at<int64_t>(codes), threads);
      },
      py::call_guard<gil_scoped_release>());
}
