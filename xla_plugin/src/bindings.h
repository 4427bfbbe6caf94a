// What each part adds to the Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace missile {

void BindCuda(pybind11::module_& m);
void BindArena(pybind11::module_& m);
void BindCudaProber(pybind11::module_& m);
void BindGranules(pybind11::module_& m);
void BindLink(pybind11::module_& m);
void BindMemsim(pybind11::module_& m);
void BindArbiter(pybind11::module_& m);

}  // namespace missile
