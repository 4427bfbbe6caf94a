// How blocks move down.
#include <exception>
#include <stdexcept>
#include <utility>

#include "arena.h"

namespace missile {

void Arena::WaitForMove(Lock& lock, const BlockRecord* block) {
  moved_.wait(lock, [block] { return !block->moving; });
}

bool Arena::Movable(const Span* span) {
  const BlockRecord* block = span->block;
  return block != nullptr && block->state == BlockState::kLive && block->pins == 0 &&
         block->views == 0 && !block->moving;
}

Span* Arena::ReserveBelow(const Span* span) {
  Span* hole = holes_.LowestBelow(span->size_bytes, span->offset);
  if (hole != nullptr) return Cut(hole, span->size_bytes);
  // Smaller than the block, which slides into it.
  if (span->before != nullptr && span->before->hole) {
    return Cut(span->before, span->before->size_bytes);
  }
  return nullptr;
}

Span* Arena::MoveInto(Lock& lock, Span* span, Span* target) {
  BlockRecord* block = span->block;
  block->moving = true;
  ++moves_in_flight_;
  // Neither span is a hole, so both stay as they are without the lock.
  lock.unlock();
  std::exception_ptr failure;
  try {
    region_->MoveDown(target->offset, span->offset, block->size_bytes);
  } catch (...) {
    failure = std::current_exception();
  }
  lock.lock();
  --moves_in_flight_;
  block->moving = false;
  if (failure != nullptr) {
    FailMove(span, target);
    std::rethrow_exception(failure);
  }
  stats_.moved_bytes += block->size_bytes;
  if (target->size_bytes < span->size_bytes) {
    // The block slid down: the border between the two moves up by as much.
    std::swap(target->size_bytes, span->size_bytes);
    span->offset = target->end();
  }
  target->block = block;
  block->span = target;
  Span* left = Free(span);
  // Its owner may have released it meanwhile; then `left` may have become part of a larger hole.
  Span* freed = FreeIfUnused(block);
  moved_.notify_all();
  return freed != nullptr ? freed : left;
}

void Arena::FailMove(Span* span, Span* target) {
  BlockRecord* block = span->block;
  // One that slid has been written over.
  block->lost = block->lost || target->size_bytes < span->size_bytes;
  Free(target);
  FreeIfUnused(block);
  moved_.notify_all();
}

bool Arena::Move(const Block& block) {
  if (block.arena_.get() != this) {
    throw std::invalid_argument("arena: the block to move is one of another arena");
  }
  Lock lock(mutex_);
  Span* span = block.record_->span;
  if (span == nullptr || !Movable(span)) return false;
  Span* target = ReserveBelow(span);
  if (target == nullptr) return false;
  MoveInto(lock, span, target);
  return true;
}

std::uint64_t Arena::Compact() {
  Lock lock(mutex_);
  std::uint64_t moved_bytes = 0;
  std::uint64_t moved_before = 0;
  do {
    moved_before = moved_bytes;
    bool hole_below = false;
    for (Span* span = first_; span != nullptr; span = span->behind) {
      if (span->hole) hole_below = true;
      if (!hole_below || !Movable(span)) continue;
      Span* target = ReserveBelow(span);
      if (target == nullptr) continue;
      moved_bytes += span->block->size_bytes;
      span = MoveInto(lock, span, target);
    }
  } while (moved_bytes != moved_before);
  return moved_bytes;
}

}  // namespace missile
