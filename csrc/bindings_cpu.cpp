// The Python face of csrc/cpu: raw addresses, sizes and a thread count in, results into memory of the caller. The
// launchers in unitok_kernels/ops/<op>/cpu.py and unitok_kernels/numpy.py have checked every argument.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "codeword_statistics.h"
#include "isa.h"
#include "kmeans.h"
#include "residual_decode.h"
#include "residual_encode.h"

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
      "codeword_statistics",
      [](Address x, int type, int64_t count, int64_t width, Address codes, int64_t codewords, Address sums,
         Address counts, int threads) {
        return unitok::codeword_statistics(rows(x, type, count, width), at<const int64_t>(codes), codewords,
                                           at<float>(sums), at<int64_t>(counts), threads);
      },
      py::call_guard<gil_scoped_release>());

  m.def(
      "kmeans",
      [](Address x, int64_t count, int64_t width, Address codebook, int64_t codewords, int64_t iterations,
         bool balanced, Address codes, int threads) {
        unitok::kmeans(at<const float>(x), count, width, at<float>(codebook), codewords, iterations, balanced,
                       at<int64_t>(codes), threads);
      },
      py::call_guard<gil_scoped_release>());

  m.def(
      "kmeans_start",
      [](Address x, int64_t count, int64_t width, int64_t codewords, Address draws, Address chosen, int threads) {
        unitok::kmeans_start(at<const float>(x), count, width, codewords, at<const double>(draws), at<int64_t>(chosen),
                             threads);
      },
      py::call_guard<gil_scoped_release>());

  m.def(
      "residual_decode",
      [](Address codes, int64_t count, int64_t levels, Address codebooks, int type, int64_t codewords, int64_t width,
         Address quantized, bool check, int threads) {
        return unitok::residual_decode(at<const int64_t>(codes), count, levels,
                                       rows(codebooks, type, levels * codewords, width), at<void>(quantized), check,
                                       threads);
      },
      py::call_guard<gil_scoped_release>());

  m.def(
      "residual_decode_backward",
      [](Address gradient, int type, int64_t count, int64_t width, Address codes, int64_t levels, int64_t codewords,
         Address by_codebooks, int threads) {
        unitok::residual_decode_backward(rows(gradient, type, count, width), at<const int64_t>(codes), levels,
                                         codewords, at<void>(by_codebooks), threads);
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
}
