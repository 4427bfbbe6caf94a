// Which channels an owner's memory may lie in.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#include "channel_map.h"

namespace missile {

// A colour is a channel's number.
class ColourSet {
 public:
  // All colours, however many there are.
  ColourSet() = default;
  // These alone, even if a device has no others. Throws std::invalid_argument unless they are
  // ascending and at least one.
  explicit ColourSet(Channels colours) : colours_(std::move(colours)) {
    if (colours_.empty()) {
      throw std::invalid_argument("colours: none are named, and there must be at least one");
    }
    for (std::size_t i = 1; i < colours_.size(); ++i) {
      if (colours_[i - 1] < colours_[i]) continue;
      throw std::invalid_argument("colours: " + std::to_string(colours_[i]) + " comes behind " +
                                  std::to_string(colours_[i - 1]) + ", and they must ascend");
    }
  }

  bool all() const { return colours_.empty(); }
  // Empty if all are allowed.
  const Channels& named() const { return colours_; }

 private:
  Channels colours_;
};

}  // namespace missile
