// The Python face of csrc/cuda: raw addresses, sizes, a device's index and a stream's handle in, results into memory of
// the caller, workspace included: nothing is allocated and nothing waits, so that calls can stand in a CUDA graph. The
// launchers in unitok_kernels/ops/<op>/cuda.py have checked every argument.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>

#include "codeword_statistics.h"
#include "encode.h"
#include "errors.h"
#include "main_interpreter.h"
#include "moe_residual_encode.h"
#include "pack_codebooks.h"
#include "residual_decode.h"
#include "residual_encode.h"

namespace py = pybind11;
using Address = std::uintptr_t;
using unitok::check;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

unitok::Rows rows(Address address, int type, int64_t count, int64_t width) {
  return {at<const void>(address), static_cast<unitok::Float>(type), count, width};
}

cudaStream_t stream_of(Address handle) { return reinterpret_cast<cudaStream_t>(handle); }

// Makes a device current, and the one that was current again when it goes.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_));
    if (device != before_) check(cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

using Sizes = std::initializer_list<std::pair<const char*, int64_t>>;

// Runs a launcher on a device, and says which call it was that CUDA refused.
template <class Launch>
void run(const char* operation, const Sizes& sizes, int device, const Launch& launch) {
  try {
    const py::gil_scoped_release release;
    const DeviceGuard guard(device);
    launch();
  } catch (const unitok::CudaError& error) {
    std::ostringstream message;
    message << operation << ": ";
    for (const auto& [name, size] : sizes) message << name << " = " << size << ", ";
    message << "on CUDA device " << device << ": " << cudaGetErrorString(error.code)
            << ". `unitok doctor` says what can run here; backend=\"triton\" and \"reference\" do without this module.";
    throw std::runtime_error(message.str());
  }
}

#ifndef UNITOK_EMULATED
// The name and the compute capability, 900 for 9.0, of each device that there is.
std::vector<std::pair<std::string, int>> devices() {
  try {
    int count = 0;
    check(cudaGetDeviceCount(&count));
    std::vector<std::pair<std::string, int>> found;
    for (int device = 0; device < count; ++device) {
      cudaDeviceProp properties;
      check(cudaGetDeviceProperties(&properties, device));
      found.emplace_back(properties.name, 100 * properties.major + 10 * properties.minor);
    }
    return found;
  } catch (const unitok::CudaError& error) {
    throw std::runtime_error(cudaGetErrorString(error.code));
  }
}
#endif

}  // namespace

#define PyInit__cuda init_cuda_in_main_interpreter
PYBIND11_MODULE(_cuda, m) {
  UNITOK_NEEDS_MAIN_INTERPRETER(_cuda);
  m.doc() = "UniTok's CUDA kernels. Takes raw addresses: call them through unitok_kernels.";

#ifndef UNITOK_EMULATED
  m.attr("architectures") = std::vector<int>{__CUDA_ARCH_LIST__};  // nvcc's, as 900; the last of them as PTX too
  m.def("devices", &devices);
#endif

  m.def("codeword_statistics", [](Address x, int type, int64_t count, int64_t width, Address codes, int64_t codewords,
                                  Address sums, Address counts, Address workspace, int device, Address stream) {
    run("codeword_statistics", {{"N", count}, {"D", width}, {"K", codewords}}, device, [&] {
      unitok::codeword_statistics(rows(x, type, count, width), at<const int64_t>(codes), 1, codewords,
                                  unitok::Float::f32, at<void>(sums), at<int64_t>(counts), at<void>(workspace),
                                  stream_of(stream));
    });
  });

  m.def("codeword_statistics_workspace", &unitok::codeword_statistics_workspace);

  m.def("residual_decode", [](Address codes, int64_t count, int64_t levels, Address codebooks, int type,
                              int64_t codewords, int64_t width, Address quantized, int device, Address stream) {
    run("residual_decode", {{"N", count}, {"L", levels}, {"K", codewords}, {"D", width}}, device, [&] {
      unitok::residual_decode(at<const int64_t>(codes), count, levels, rows(codebooks, type, levels * codewords, width),
                              at<void>(quantized), stream_of(stream));
    });
  });

  m.def("residual_decode_backward",
        [](Address gradient, int type, int64_t count, int64_t width, Address codes, int64_t levels, int64_t codewords,
           Address by_codebooks, Address workspace, int device, Address stream) {
          run("residual_decode_backward", {{"N", count}, {"L", levels}, {"K", codewords}, {"D", width}}, device, [&] {
            unitok::residual_decode_backward(rows(gradient, type, count, width), at<const int64_t>(codes), levels,
                                             codewords, at<void>(by_codebooks), at<void>(workspace), stream_of(stream));
          });
        });

  m.attr("widest") = unitok::kWidest;
  m.attr("most_codewords") = unitok::kMostCodewords;
  m.def("packed_bytes", &unitok::packed_bytes);

  m.def("pack_codebooks", [](Address codebooks, int type, int64_t tables, int64_t codewords, int64_t width,
                             Address packed, int device, Address stream) {
    run("pack_codebooks", {{"tables", tables}, {"K", codewords}, {"D", width}}, device, [&] {
      unitok::pack_codebooks(rows(codebooks, type, tables * codewords, width), tables, at<void>(packed),
                             stream_of(stream));
    });
  });

  m.def("residual_encode_workspace", [](int64_t levels, int device) {
    int64_t bytes = 0;
    run("residual_encode", {{"L", levels}}, device, [&] { bytes = unitok::residual_encode_workspace(levels); });
    return bytes;
  });

  m.def("residual_encode", [](Address z, int type, int64_t count, int64_t width, Address packed, int64_t levels,
                              int64_t codewords, bool exact, bool stats, Address codes, Address quantized,
                              Address distances, Address level_error, Address counts, Address workspace, int device,
                              Address stream) {
    run("residual_encode", {{"N", count}, {"D", width}, {"L", levels}, {"K", codewords}}, device, [&] {
      unitok::residual_encode(rows(z, type, count, width), at<const void>(packed), levels, codewords, exact, stats,
                              at<int64_t>(codes), at<void>(quantized), at<float>(distances), at<float>(level_error),
                              at<int64_t>(counts), at<void>(workspace), stream_of(stream));
    });
  });

  m.def("by_warpgroups", [](int64_t width, int device) {
    bool found = false;
    run("by_warpgroups", {{"D", width}}, device, [&] { found = unitok::by_warpgroups(width); });
    return found;
  });

  // Packed codebooks are (address, experts, levels, codewords).
  using Packed = std::tuple<Address, int64_t, int64_t, int64_t>;
  const auto chains = [](const Packed& packed) {
    const auto& [address, experts, levels, codewords] = packed;
    return unitok::PackedChains{at<const void>(address), experts, levels, codewords};
  };
  m.def("moe_residual_encode_workspace",
        [chains](int64_t count, int64_t slots, const Packed& experts, const Packed& shared, int device) {
          int64_t bytes = 0;
          run("moe_residual_encode", {{"N", count}, {"S", slots}}, device,
              [&] { bytes = unitok::moe_residual_encode_workspace(count, slots, chains(experts), chains(shared)); });
          return bytes;
        });

  m.def("moe_residual_encode",
        [chains](Address z, int type, int64_t count, int64_t width, const Packed& experts, Address expert_ids,
                 Address weights, int weight_type, int64_t slots, const Packed& shared, float shared_weight, bool exact,
                 bool stats, Address codes, Address shared_codes, Address combined, Address level_error,
                 Address shared_error, Address counts, Address workspace, int device, Address stream) {
          const auto [_, number, levels, codewords] = experts;
          run("moe_residual_encode",
              {{"N", count}, {"D", width}, {"S", slots}, {"E", number}, {"L", levels}, {"K", codewords}}, device, [&] {
                unitok::moe_residual_encode(rows(z, type, count, width), chains(experts), at<const int64_t>(expert_ids),
                                            rows(weights, weight_type, count, slots), chains(shared), shared_weight,
                                            exact, stats,
                                            {at<int64_t>(codes), at<int64_t>(shared_codes), at<void>(combined),
                                             at<float>(level_error), at<float>(shared_error), at<int64_t>(counts)},
                                            at<void>(workspace), stream_of(stream));
              });
        });
}
#undef PyInit__cuda
UNITOK_INIT(_cuda, init_cuda_in_main_interpreter)
