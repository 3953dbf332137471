// Keeps a native module out of sub-interpreters, such as mod_wsgi's: before Python 3.12 pybind11 would wait there for
// ever, for a lock that its own thread holds.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace unitok {

inline bool in_main_interpreter() { return PyInterpreterState_Get() == PyInterpreterState_Main(); }

inline std::string needs_main_interpreter(const char* module) {
  return "unitok_kernels." + std::string(module) +
         ": the importing interpreter must be the main one of its process, got a sub-interpreter. Import it in the "
         "main "
         "one; under mod_wsgi, set WSGIApplicationGroup %{GLOBAL}.";
}

}  // namespace unitok

// What Python calls first, in place of pybind11's function, which is named `inner` by then. Newer Pythons call it in
// the main interpreter, whoever imports: so the module's body asks again, by UNITOK_NEEDS_MAIN_INTERPRETER.
#define UNITOK_INIT(name, inner)                                                       \
  extern "C" PYBIND11_EXPORT PyObject* PyInit_##name() {                               \
    if (unitok::in_main_interpreter()) return inner();                                 \
    PyErr_SetString(PyExc_ImportError, unitok::needs_main_interpreter(#name).c_str()); \
    return nullptr;                                                                    \
  }
#define UNITOK_NEEDS_MAIN_INTERPRETER(name) \
  if (!unitok::in_main_interpreter()) throw pybind11::import_error(unitok::needs_main_interpreter(#name))
