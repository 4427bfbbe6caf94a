// Memory that the system or a device refused.
#pragma once

#include <new>
#include <string>
#include <utility>

namespace missile {

class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(std::string reason) : reason_(std::move(reason)) {}
  const char* what() const noexcept override { return reason_.c_str(); }

 private:
  std::string reason_;
};

}  // namespace missile
