// An arena: memory that is taken from the system once and handed out in blocks.
//
// What describes a block lies outside of the region, which may be a device's memory.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "colours.h"
#include "holes.h"
#include "pool.h"
#include "region.h"
#include "view.h"

namespace missile {

// Waiting: released by its owner, and its space not reusable yet.
enum class BlockState : std::uint8_t { kLive, kWaiting, kFree };

// What the arena knows of one block. It outlives the block's space if the handle does.
struct BlockRecord {
  Span* span = nullptr;
  std::uint64_t size_bytes = 0;
  std::uint64_t pins = 0;
  std::uint64_t views = 0;
  BlockState state = BlockState::kFree;
  bool moving = false;
  bool lost = false;  // A move failed half-way: its bytes are gone.
  bool has_handle = false;
  BlockRecord* next = nullptr;
};

struct ArenaStats {
  std::uint64_t size_bytes = 0;
  std::uint64_t used_bytes = 0;       // Of blocks, rounded up to the alignment.
  std::uint64_t requested_bytes = 0;  // Of blocks, as asked for.
  std::uint64_t free_bytes = 0;
  std::uint64_t largest_free_bytes = 0;
  std::uint64_t live_blocks = 0;
  std::uint64_t waiting_blocks = 0;
  std::uint64_t views = 0;
  std::uint64_t parked_views = 0;  // That count for no block; see ViewSet.
  std::uint64_t pins = 0;
  // Since the arena was made.
  std::uint64_t allocations = 0;
  std::uint64_t failures = 0;
  std::uint64_t moved_bytes = 0;
  std::uint64_t native_allocations = 0;
};

class Block;

// Safe on any thread. No lock is held while bytes are moved, and none while anything else is
// called.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  // A region's size: rounded up to the alignment, a power of two from 64 to kRegionAlignment.
  // Throws std::invalid_argument.
  static std::uint64_t RegionBytes(std::uint64_t size_bytes, std::uint64_t alignment);

  // Of a region of RegionBytes(). Made by std::make_shared, since blocks and views share it.
  Arena(std::unique_ptr<Region> region, std::uint64_t alignment);
  // Of the host's memory. Throws std::invalid_argument and NoMemory.
  Arena(std::uint64_t size_bytes, std::uint64_t alignment, bool prefault, bool huge_pages);

  std::byte* address() const { return region_->base(); }
  std::uint64_t size_bytes() const { return region_->size_bytes(); }
  DLDevice device() const { return region_->device(); }
  std::uint64_t alignment() const { return alignment_; }
  // What a block of this size takes.
  std::uint64_t RoundUp(std::uint64_t size_bytes) const;
  bool Contains(std::uintptr_t address) const;
  std::uint64_t FreeBytes() const;
  std::uint64_t WaitingBlocks() const;

  // Null if no hole is large enough. A block lies at one of `places`, which ascend, if it can:
  // right behind `near` rather than elsewhere. If it can not, then right behind `near`, if it is
  // given and there is a hole.
  // Null too if `colours` are not all there are: a block's bytes follow each other through whatever
  // channels they come to. Memory of chosen ones is GranulePool's.
  // Throws std::invalid_argument for a size that can never fit, and places that are not aligned.
  std::unique_ptr<Block> Allocate(std::uint64_t size_bytes, const Block* near,
                                  const ColourSet& colours = ColourSet(),
                                  const std::vector<std::uint64_t>& places = {});
  // A block of kPageBytes at a multiple of that, or null. It has one pin, so it stays where it is.
  std::unique_ptr<Block> AllocatePage();
  // Copies between ranges that do not overlap, inside of what the caller holds. They are done when
  // it returns; it throws what a device that fails throws.
  void Copy(const std::vector<CopyRange>& ranges) { region_->Copy(ranges); }
  // Moves a live block without pins and views to a lower place, if there is one for it. Throws what
  // a device that fails throws; the block stays then, and Pin() tells if its bytes were lost.
  bool Move(const Block& block);
  // Moves blocks down until none moves. Returns the bytes moved.
  std::uint64_t Compact();
  // Moves the fewest bytes that make holes next to each other one of `size_bytes`, unless those are
  // more than `most_bytes`. Returns whether there is one now.
  bool MakeRoom(std::uint64_t size_bytes, std::uint64_t most_bytes);
  ArenaStats Stats() const;
  // Throws std::runtime_error if what the arena knows contradicts itself.
  void Check() const;

 private:
  friend class Block;
  friend class ViewSet;
  friend void DropView(View* view);
  using Lock = std::unique_lock<std::mutex>;

  // Where Allocate() puts a block, or a null.
  HoleIndex::Place PlaceFor(std::uint64_t reserved_bytes, const Block* near,
                            const std::vector<std::uint64_t>& places) const;
  // Takes a hole's first bytes. The rest stays a hole.
  Span* Cut(Span* hole, std::uint64_t size_bytes);
  // Takes bytes in the middle of a hole. What lies before and behind stays two holes.
  Span* CutAt(Span* hole, std::uint64_t offset, std::uint64_t size_bytes);
  // Makes a live block of a span that was cut.
  std::unique_ptr<Block> Occupy(Span* span, std::uint64_t size_bytes, std::unique_ptr<Block> handle,
                                std::uint64_t pins);
  // Makes a hole of a span and its neighbours, and returns it.
  Span* Free(Span* span);
  // The hole that a block leaves when nothing needs it any more, or null.
  Span* FreeIfUnused(BlockRecord* block);
  void Release(BlockRecord* block);
  void DropHandle(BlockRecord* block);

  void WaitForMove(Lock& lock, const BlockRecord* block);
  static bool Movable(const Span* span);
  // A stretch from a hole to a hole with nothing but holes and movable blocks between.
  struct Stretch {
    Span* first = nullptr;  // Null if there is none.
    std::uint64_t hole_bytes = 0;
    std::uint64_t block_bytes = 0;
  };
  Stretch CheapestStretch(std::uint64_t hole_bytes) const;
  Span* ReserveBelow(const Span* span);
  // Gives up the lock for the copy. Returns the hole to go on from.
  Span* MoveInto(Lock& lock, Span* span, Span* target);
  void FailMove(Span* span, Span* target);
  // Throws unless a block is there to be pinned or viewed.
  static void ExpectUsable(const BlockRecord* block, const char* use);

  // Views of a live block, and where it lies.
  ViewList MakeViews(BlockRecord* block, std::size_t count, std::byte** start);
  void Drop(View* view);

  const std::uint64_t alignment_;
  const std::unique_ptr<Region> region_;
  mutable std::mutex mutex_;
  std::condition_variable moved_;
  HoleIndex holes_;
  Pool<Span> spans_;
  Pool<BlockRecord> records_;
  Pool<View> views_;
  Span* first_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t moves_in_flight_ = 0;
  // The counts; what can be told from elsewhere is filled in by Stats().
  ArenaStats stats_;
};

// The owner's handle. Without it the block is released.
class Block {
 public:
  explicit Block(std::shared_ptr<Arena> arena) : arena_(std::move(arena)) {}
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Where the block lies: for as long as it has a pin or a view. Throws std::invalid_argument once
  // it is free.
  std::uint64_t offset() const;
  std::byte* address() const { return arena_->address() + offset(); }
  std::uint64_t size_bytes() const { return size_bytes_; }
  DLDevice device() const { return arena_->device(); }
  BlockState state() const;

  // A launch or a copy that uses the block. All of these throw std::invalid_argument if the block
  // is not in a state for it; pins and views wait for a move to end, and throw std::runtime_error
  // if one lost the block's bytes.
  //
  // On a GPU a view may end while the launch that reads it is still to run. So a launch keeps its
  // pin until its end has been observed.
  void Pin();
  void Unpin();
  void Release();
  ViewList MakeViews(const std::shared_ptr<const ViewLayout>& layout);
  // A view without a layout.
  ViewList MakeView(std::uint64_t offset_bytes, std::uint64_t size_bytes);

  // For callers that hold another lock and must not wait with it.
  bool moving() const;
  void WaitForMove() const;

 private:
  friend class Arena;
  friend class ViewSet;

  std::shared_ptr<Arena> arena_;
  BlockRecord* record_ = nullptr;
  std::uint64_t size_bytes_ = 0;
};

}  // namespace missile
