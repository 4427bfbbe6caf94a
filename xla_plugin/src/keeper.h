// What keeps Python's memory in place while a link copies it.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <memory>

#include "link.h"

namespace missile {

struct Extent {
  std::byte* data;
  std::size_t size_bytes;
};

// Holds two Python objects, or the owners of two addresses, for as long as bytes move.
class __attribute__((visibility("hidden"))) PyKeeper : public Keeper {
 public:
  // `on_done`: None, or what is called with the copy that has ended.
  explicit PyKeeper(pybind11::object on_done = pybind11::none());
  ~PyKeeper() override;

  // Bytes of an object with the buffer protocol, or from an (address, owner) on. Sides are 0 and 1.
  // Throws what Python raises for an object without contiguous or writable memory.
  Extent Hold(std::size_t side, const pybind11::object& object, bool writable);

  void OnEnd(const std::shared_ptr<Copy>& copy) override;

 private:
  std::array<Py_buffer, 2> views_{};  // Releasing an empty one does nothing.
  std::array<pybind11::object, 2> owners_;
  pybind11::object on_done_;
};

}  // namespace missile
