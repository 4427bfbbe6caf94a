// The check of everything that an arena knows.
#include "arena.h"

namespace missile {

void Arena::Check() const {
  std::lock_guard lock(mutex_);
  std::uint64_t offset = 0;
  std::uint64_t spans = 0;
  std::uint64_t holes = 0;
  std::uint64_t free_bytes = 0;
  std::uint64_t targets = 0;
  ArenaStats seen;
  const Span* before = nullptr;
  for (const Span* span = first_; span != nullptr; span = span->behind) {
    Expect(span->offset == offset && span->size_bytes > 0, "holes and blocks do not tile it");
    Expect(span->before == before, "neighbours are not linked both ways");
    Expect(span->size_bytes % alignment_ == 0, "a border is not aligned");
    if (span->hole) {
      Expect(before == nullptr || !before->hole, "two holes side by side were not joined");
      Expect(span->block == nullptr, "a hole is some block's space");
      ++holes;
      free_bytes += span->size_bytes;
    } else if (const BlockRecord* block = span->block; block != nullptr) {
      Expect(block->span == span, "a block and its space do not belong together");
      Expect(RoundUp(block->size_bytes) == span->size_bytes, "a block's space is not its size");
      bool live = block->state == BlockState::kLive;
      Expect(live || block->state == BlockState::kWaiting, "a free block has space");
      Expect(live || block->pins > 0 || block->views > 0 || block->moving,
             "an unused block was not freed");
      seen.live_blocks += live ? 1 : 0;
      seen.waiting_blocks += live ? 0 : 1;
      seen.pins += block->pins;
      seen.views += block->views;
      seen.requested_bytes += block->size_bytes;
    } else {
      ++targets;
    }
    offset = span->end();
    before = span;
    ++spans;
  }
  Expect(offset == region_->size_bytes(), "holes and blocks do not reach its end");
  Expect(free_bytes == region_->size_bytes() - used_bytes_, "the count of free bytes is off");
  Expect(spans == spans_.taken(), "a span was lost");
  Expect(targets == moves_in_flight_, "space for a move was lost");
  Expect(seen.live_blocks == stats_.live_blocks, "the count of live blocks is off");
  Expect(seen.waiting_blocks == stats_.waiting_blocks, "the count of waiting blocks is off");
  Expect(seen.pins == stats_.pins, "the count of pins is off");
  Expect(seen.views == stats_.views && seen.views + stats_.parked_views == views_.taken(),
         "the count of views is off");
  Expect(seen.requested_bytes == stats_.requested_bytes, "the count of requested bytes is off");
  holes_.Check(holes, free_bytes);
}

}  // namespace missile
