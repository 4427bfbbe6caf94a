#include "cuda_mover.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace missile {
namespace {

// A few of these make a chunk, so that filling and sending overlap within it.
constexpr std::size_t kBufferBytes = std::size_t{256} << 10;

CudaAddress AddressOf(const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data); }

}  // namespace

CudaMover::CudaMover(std::shared_ptr<const CudaStream> stream, Direction direction,
                     std::size_t chunk_bytes)
    : stream_(std::move(stream)),
      direction_(direction),
      moved_(stream_->device()),
      buffers_{Buffer(stream_->device(), std::min(chunk_bytes, kBufferBytes)),
               Buffer(stream_->device(), std::min(chunk_bytes, kBufferBytes))} {}

void CudaMover::Move(Steps steps) {
  const CudaScope scope(*stream_->device());
  try {
    for (Piece step{}; steps.Next(step);) Enqueue(step);
    moved_.Record(*stream_);
    moved_.Wait();
    for (Buffer& buffer : buffers_) Empty(buffer);
  } catch (...) {
    stream_->Drain();
    for (Buffer& buffer : buffers_) buffer.busy = false;
    throw;
  }
}

void CudaMover::Enqueue(const Piece& step) {
  const std::byte* host = direction_ == Direction::kToDevice ? step.source : step.destination;
  if (PinnedMemory::Holds(stream_->device()->driver(), host)) {
    EnqueueCopy(step);
  } else {
    EnqueueStaged(step);
  }
}

void CudaMover::EnqueueStaged(const Piece& step) {
  for (std::size_t done = 0; done < step.size_bytes;) {
    Buffer& buffer = buffers_[next_];
    Empty(buffer);
    std::byte* staged = buffer.memory.data();
    const std::size_t size = std::min(buffer.memory.size_bytes(), step.size_bytes - done);
    if (direction_ == Direction::kToDevice) {
      std::memcpy(staged, step.source + done, size);
      EnqueueCopy({step.destination + done, staged, size});
    } else {
      EnqueueCopy({staged, step.source + done, size});
      buffer.out = {step.destination + done, staged, size};
    }
    buffer.done.Record(*stream_);
    buffer.busy = true;
    next_ = 1 - next_;
    done += size;
  }
}

void CudaMover::EnqueueCopy(const Piece& step) const {
  const CudaDriver& driver = stream_->device()->driver();
  if (direction_ == Direction::kToDevice) {
    driver.cuMemcpyHtoDAsync(AddressOf(step.destination), step.source, step.size_bytes,
                             stream_->handle());
  } else {
    driver.cuMemcpyDtoHAsync(step.destination, AddressOf(step.source), step.size_bytes,
                             stream_->handle());
  }
}

void CudaMover::Empty(Buffer& buffer) {
  if (!buffer.busy) return;
  buffer.done.Wait();
  buffer.busy = false;
  std::copy_n(buffer.out.source, buffer.out.size_bytes, buffer.out.destination);
}

}  // namespace missile
