// How a link's worker moves bytes between the host and a CUDA device.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "cuda_device.h"
#include "mover.h"

namespace missile {

enum class Direction : unsigned char { kToDevice, kToHost };

// Pinned memory of the host's is read and written by the device itself. Other memory goes through
// two pinned buffers in turn: the processor fills or empties one while the bus is busy with the
// other.
class CudaMover : public Mover {
 public:
  // `stream`: shared by a link's workers, so that chunks go over the bus in the order of turns.
  CudaMover(std::shared_ptr<const CudaStream> stream, Direction direction, std::size_t chunk_bytes);

  void Move(Steps steps) override;

 private:
  struct Buffer {
    Buffer(const std::shared_ptr<const CudaDevice>& device, std::size_t size_bytes)
        : memory(device, size_bytes), done(device) {}

    const PinnedMemory memory;
    const CudaEvent done;
    bool busy = false;
    Piece out{};  // What is to leave it once it is no longer busy.
  };

  void Enqueue(const Piece& step);
  void EnqueueStaged(const Piece& step);
  void EnqueueCopy(const Piece& step) const;
  // Waits until the device needs it no more.
  static void Empty(Buffer& buffer);

  const std::shared_ptr<const CudaStream> stream_;
  const Direction direction_;
  const CudaEvent moved_;
  std::array<Buffer, 2> buffers_;
  std::size_t next_ = 0;
};

}  // namespace missile
