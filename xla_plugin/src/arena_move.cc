// How blocks move down.
#include <algorithm>
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

Arena::Stretch Arena::CheapestStretch(std::uint64_t hole_bytes) const {
  Stretch best;
  Stretch now;
  for (Span* span = first_; span != nullptr; span = span->behind) {
    if (span->hole) {
      if (now.first == nullptr) now.first = span;
      now.hole_bytes += span->size_bytes;
    } else if (!Movable(span)) {
      now = Stretch{};
    } else if (now.first != nullptr) {
      now.block_bytes += span->size_bytes;
    }
    // Without its first hole, and the blocks up to the next, as long as the others suffice.
    while (now.first != nullptr && now.hole_bytes >= hole_bytes) {
      if (best.first == nullptr || now.block_bytes < best.block_bytes) best = now;
      now.hole_bytes -= now.first->size_bytes;
      Span* next = now.first->behind;
      for (; next != nullptr && !next->hole && next != span->behind; next = next->behind) {
        now.block_bytes -= next->size_bytes;
      }
      now.first = next == span->behind ? nullptr : next;
    }
  }
  return best;
}

bool Arena::MakeRoom(std::uint64_t size_bytes, std::uint64_t most_bytes) {
  std::uint64_t reserved_bytes = RoundUp(size_bytes);
  Lock lock(mutex_);
  if (holes_.Find(reserved_bytes) != nullptr) return true;
  Stretch stretch = CheapestStretch(reserved_bytes);
  if (stretch.block_bytes > most_bytes) return false;
  // Blocks slide down, so that the first hole moves up and takes in the others. Others may take
  // from those meanwhile; then what was planned is all that is moved.
  Span* hole = stretch.first;
  while (hole != nullptr && hole->size_bytes < reserved_bytes) {
    Span* span = hole->behind;
    if (span == nullptr || span->hole || !Movable(span)) break;
    if (span->size_bytes > stretch.block_bytes) break;
    stretch.block_bytes -= span->size_bytes;
    hole = MoveInto(lock, span, Cut(hole, std::min(hole->size_bytes, span->size_bytes)));
  }
  return holes_.Find(reserved_bytes) != nullptr;
}

}  // namespace missile
