// How a link's worker moves bytes.
#pragma once

#include <algorithm>
#include <cstddef>

#include "copy.h"

namespace missile {

// Bytes to move between ranges that do not overlap.
struct Piece {
  std::byte* destination;
  const std::byte* source;
  std::size_t size_bytes;
};

// The parts of a copy's pieces that make up a chunk.
class Steps {
 public:
  // From `offset` of the first piece on, `size_bytes` in all.
  Steps(const Piece* first, std::size_t offset, std::size_t size_bytes)
      : piece_(first), offset_(offset), left_(size_bytes) {}

  // Whether there is one more, which goes to `step`.
  bool Next(Piece& step) {
    if (left_ == 0) return false;
    const std::size_t size = std::min(left_, piece_->size_bytes - offset_);
    step = {piece_->destination + offset_, piece_->source + offset_, size};
    left_ -= size;
    offset_ = 0;
    ++piece_;
    return true;
  }

 private:
  const Piece* piece_;
  std::size_t offset_;
  std::size_t left_;
};

// Belongs to one worker.
class Mover {
 public:
  Mover() = default;
  virtual ~Mover() = default;
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  // All bytes are there when it returns, and none is on its way any more if it throws.
  virtual void Move(Steps steps) = 0;
};

// Within the host's memory, by the processor.
class HostMover : public Mover {
 public:
  explicit HostMover(Stores stores) : stores_(stores) {}

  void Move(Steps steps) override {
    for (Piece step{}; steps.Next(step);) {
      CopyBytes(step.destination, step.source, step.size_bytes, stores_);
    }
  }

 private:
  const Stores stores_;
};

}  // namespace missile
