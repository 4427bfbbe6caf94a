#include "arena.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "view_set.h"

namespace missile {
namespace {

// Slabs of nodes that an arena starts with: room for thousands of blocks and views.
constexpr std::size_t kSpanSlabs = 4;
constexpr std::size_t kRecordSlabs = 2;
constexpr std::size_t kViewSlabs = 4;

std::uint64_t CheckedAlignment(std::uint64_t alignment) {
  if (alignment < 64 || alignment > kRegionAlignment || (alignment & (alignment - 1)) != 0) {
    throw std::invalid_argument("arena: alignment is " + std::to_string(alignment) +
                                ", and must be a power of two from 64 to " +
                                std::to_string(kRegionAlignment));
  }
  return alignment;
}

void DeleteTensor(DLManagedTensor* managed) { DropView(static_cast<View*>(managed->manager_ctx)); }

}  // namespace

std::uint64_t Arena::RegionBytes(std::uint64_t size_bytes, std::uint64_t alignment) {
  const std::uint64_t mask = CheckedAlignment(alignment) - 1;
  if (size_bytes == 0) throw std::invalid_argument("arena: size_bytes is 0, and must be positive");
  return (size_bytes + mask) & ~mask;
}

Arena::Arena(std::uint64_t size_bytes, std::uint64_t alignment, bool prefault, bool huge_pages)
    : Arena(std::make_unique<HostRegion>(RegionBytes(size_bytes, alignment), prefault, huge_pages),
            alignment) {}

Arena::Arena(std::unique_ptr<Region> region, std::uint64_t alignment)
    : alignment_(CheckedAlignment(alignment)),
      region_(std::move(region)),
      holes_(alignment),
      spans_(kSpanSlabs),
      records_(kRecordSlabs),
      views_(kViewSlabs),
      first_(spans_.Take()) {
  first_->size_bytes = region_->size_bytes();
  holes_.Insert(first_);
}

std::uint64_t Arena::RoundUp(std::uint64_t size_bytes) const {
  return (size_bytes + alignment_ - 1) & ~(alignment_ - 1);
}

bool Arena::Contains(std::uintptr_t address) const {
  auto base = reinterpret_cast<std::uintptr_t>(region_->base());
  return address >= base && address - base < region_->size_bytes();
}

std::uint64_t Arena::FreeBytes() const {
  std::lock_guard lock(mutex_);
  return region_->size_bytes() - used_bytes_;
}

std::uint64_t Arena::WaitingBlocks() const {
  std::lock_guard lock(mutex_);
  return stats_.waiting_blocks;
}

HoleIndex::Place Arena::PlaceFor(std::uint64_t reserved_bytes, const Block* near,
                                 const std::vector<std::uint64_t>& places) const {
  Span* behind = nullptr;
  if (near != nullptr && near->record_->span != nullptr) {
    behind = near->record_->span->behind;
    if (behind != nullptr && !(behind->hole && behind->size_bytes >= reserved_bytes)) {
      behind = nullptr;
    }
  }
  const bool both =
      behind != nullptr && std::binary_search(places.begin(), places.end(), behind->offset);
  if (!both) {
    const HoleIndex::Place place = holes_.FindOneOf(places, reserved_bytes);
    if (place.hole != nullptr) return place;
  }
  Span* hole = behind != nullptr ? behind : holes_.Find(reserved_bytes);
  return {hole, hole != nullptr ? hole->offset : 0};
}

std::unique_ptr<Block> Arena::Allocate(std::uint64_t size_bytes, const Block* near,
                                       const ColourSet& colours,
                                       const std::vector<std::uint64_t>& places) {
  if (size_bytes == 0 || size_bytes > region_->size_bytes()) {
    throw std::invalid_argument("arena: a block of " + std::to_string(size_bytes) +
                                " bytes was asked for, and it must have 1 to " +
                                std::to_string(region_->size_bytes()));
  }
  if (near != nullptr && near->arena_.get() != this) {
    throw std::invalid_argument("arena: `near` is a block of another arena");
  }
  for (std::size_t k = 0; k < places.size(); ++k) {
    if (places[k] % alignment_ != 0 || (k > 0 && places[k] <= places[k - 1])) {
      throw std::invalid_argument("arena: `places` must ascend and be multiples of " +
                                  std::to_string(alignment_) + ", and number " + std::to_string(k) +
                                  " is " + std::to_string(places[k]));
    }
  }
  std::uint64_t reserved_bytes = RoundUp(size_bytes);
  auto handle = std::make_unique<Block>(shared_from_this());

  std::lock_guard lock(mutex_);
  const HoleIndex::Place place = PlaceFor(reserved_bytes, near, places);
  if (place.hole == nullptr || !colours.all()) {
    ++stats_.failures;
    return nullptr;
  }
  records_.EnsureOne();
  Span* span = CutAt(place.hole, place.offset, reserved_bytes);
  return Occupy(span, size_bytes, std::move(handle), 0);
}

std::unique_ptr<Block> Arena::AllocatePage() {
  auto handle = std::make_unique<Block>(shared_from_this());
  std::lock_guard lock(mutex_);
  const HoleIndex::Place place = holes_.FindPage(kPageBytes);
  if (place.hole == nullptr) {
    ++stats_.failures;
    return nullptr;
  }
  records_.EnsureOne();
  return Occupy(CutAt(place.hole, place.offset, kPageBytes), kPageBytes, std::move(handle), 1);
}

std::unique_ptr<Block> Arena::Occupy(Span* span, std::uint64_t size_bytes,
                                     std::unique_ptr<Block> handle, std::uint64_t pins) {
  BlockRecord* block = records_.Take();
  span->block = block;
  block->span = span;
  block->size_bytes = handle->size_bytes_ = size_bytes;
  block->pins = pins;
  block->state = BlockState::kLive;
  block->has_handle = true;
  handle->record_ = block;
  stats_.requested_bytes += size_bytes;
  stats_.pins += pins;
  ++stats_.live_blocks;
  ++stats_.allocations;
  return handle;
}

Span* Arena::CutAt(Span* hole, std::uint64_t offset, std::uint64_t size_bytes) {
  const std::uint64_t before_bytes = offset - hole->offset;
  if (before_bytes == 0) return Cut(hole, size_bytes);
  spans_.EnsureTwo();  // One for each side, so that nothing is half cut if there is none.
  Cut(hole, before_bytes);
  Span* rest = hole->behind;
  used_bytes_ -= before_bytes;
  holes_.Insert(hole);
  return Cut(rest, size_bytes);
}

Span* Arena::Cut(Span* hole, std::uint64_t size_bytes) {
  spans_.EnsureOne();
  holes_.Remove(hole);
  if (hole->size_bytes > size_bytes) {
    Span* rest = spans_.Take();
    rest->offset = hole->offset + size_bytes;
    rest->size_bytes = hole->size_bytes - size_bytes;
    rest->before = hole;
    rest->behind = hole->behind;
    if (rest->behind != nullptr) rest->behind->before = rest;
    hole->behind = rest;
    hole->size_bytes = size_bytes;
    holes_.Insert(rest);
  }
  used_bytes_ += size_bytes;
  return hole;
}

Span* Arena::Free(Span* span) {
  used_bytes_ -= span->size_bytes;
  span->block = nullptr;
  // Into the lower of two neighbours, whose start stays as it is.
  auto join = [this](Span* lower, Span* upper) {
    lower->size_bytes += upper->size_bytes;
    lower->behind = upper->behind;
    if (lower->behind != nullptr) lower->behind->before = lower;
    spans_.Return(upper);
  };
  if (span->behind != nullptr && span->behind->hole) {
    holes_.Remove(span->behind);
    join(span, span->behind);
  }
  if (span->before != nullptr && span->before->hole) {
    Span* before = span->before;
    holes_.Remove(before);
    join(before, span);
    span = before;
  }
  holes_.Insert(span);
  return span;
}

Span* Arena::FreeIfUnused(BlockRecord* block) {
  bool unused = block->state == BlockState::kWaiting && block->pins == 0 && block->views == 0 &&
                !block->moving;
  if (!unused) return nullptr;
  Span* hole = Free(block->span);
  block->span = nullptr;
  block->state = BlockState::kFree;
  stats_.requested_bytes -= block->size_bytes;
  --stats_.waiting_blocks;
  if (!block->has_handle) records_.Return(block);
  return hole;
}

void Arena::Release(BlockRecord* block) {
  block->state = BlockState::kWaiting;
  --stats_.live_blocks;
  ++stats_.waiting_blocks;
  FreeIfUnused(block);
}

void Arena::DropHandle(BlockRecord* block) {
  std::lock_guard lock(mutex_);
  block->has_handle = false;
  if (block->state == BlockState::kLive) {
    Release(block);
  } else if (block->state == BlockState::kFree) {
    records_.Return(block);
  }
}

void Arena::ExpectUsable(const BlockRecord* block, const char* use) {
  if (block->state != BlockState::kLive) {
    throw std::invalid_argument("block: it has been released, and only a live one can be " +
                                std::string(use));
  }
  if (block->lost) {
    throw std::runtime_error("block: its bytes were lost when a move failed; release it");
  }
}

ViewList Arena::MakeViews(BlockRecord* block, std::size_t count, std::byte** start) {
  ViewList views;  // Before the lock, so that what is dropped on an error is dropped without it.
  std::shared_ptr<Arena> self = shared_from_this();
  Lock lock(mutex_);
  WaitForMove(lock, block);
  ExpectUsable(block, "viewed");
  for (std::size_t made = 0; made < count; ++made) {
    View* view = views_.Take();
    view->arena = self;
    view->block = block;
    views.Add(view);
    ++block->views;
    ++stats_.views;
  }
  *start = region_->base() + block->span->offset;
  return views;
}

void Arena::Drop(View* view) {
  std::lock_guard lock(mutex_);
  BlockRecord* block = view->block;
  if (view->set != nullptr) view->set->Lose(view);
  views_.Return(view);
  if (block == nullptr) {
    --stats_.parked_views;
    return;
  }
  --block->views;
  --stats_.views;
  FreeIfUnused(block);
}

void DropView(View* view) {
  // The last view may take the arena with it, so it is held until the lock is gone.
  std::shared_ptr<Arena> arena = std::move(view->arena);
  view->layout.reset();
  arena->Drop(view);
}

ArenaStats Arena::Stats() const {
  std::lock_guard lock(mutex_);
  ArenaStats stats = stats_;
  stats.size_bytes = region_->size_bytes();
  stats.used_bytes = used_bytes_;
  stats.free_bytes = region_->size_bytes() - used_bytes_;
  stats.largest_free_bytes = holes_.LargestBytes();
  stats.native_allocations = spans_.growths() + records_.growths() + views_.growths();
  return stats;
}

Block::~Block() {
  if (record_ != nullptr) arena_->DropHandle(record_);
}

std::uint64_t Block::offset() const {
  std::lock_guard lock(arena_->mutex_);
  if (record_->span == nullptr) throw std::invalid_argument("block: it is free, and lies nowhere");
  return record_->span->offset;
}

BlockState Block::state() const {
  std::lock_guard lock(arena_->mutex_);
  return record_->state;
}

void Block::Pin() {
  Arena::Lock lock(arena_->mutex_);
  arena_->WaitForMove(lock, record_);
  Arena::ExpectUsable(record_, "pinned");
  ++record_->pins;
  ++arena_->stats_.pins;
}

void Block::Unpin() {
  std::lock_guard lock(arena_->mutex_);
  if (record_->pins == 0) throw std::invalid_argument("block: it has no pin to take off");
  --record_->pins;
  --arena_->stats_.pins;
  arena_->FreeIfUnused(record_);
}

void Block::Release() {
  std::lock_guard lock(arena_->mutex_);
  if (record_->state != BlockState::kLive) {
    throw std::invalid_argument("block: it has been released before");
  }
  arena_->Release(record_);
}

ViewList Block::MakeViews(const std::shared_ptr<const ViewLayout>& layout) {
  layout->CheckFits(size_bytes_, arena_->alignment());
  std::byte* start = nullptr;
  ViewList views = arena_->MakeViews(record_, layout->entries().size(), &start);
  View* view = views.first();
  for (const ViewEntry& entry : layout->entries()) {
    view->layout = layout;
    view->managed.manager_ctx = view;
    view->managed.deleter = DeleteTensor;
    DLTensor& tensor = view->managed.dl_tensor;
    tensor.data = start + entry.offset_bytes;
    tensor.device = arena_->device();
    tensor.ndim = static_cast<std::int32_t>(entry.shape.size());
    tensor.dtype = entry.dtype;
    // DLPack has no const; nobody writes to a shape.
    tensor.shape = const_cast<std::int64_t*>(entry.shape.data());
    view = view->next;
  }
  return views;
}

ViewList Block::MakeView(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  if (offset_bytes > size_bytes_ || size_bytes > size_bytes_ - offset_bytes) {
    throw std::invalid_argument("block: a view of " + std::to_string(size_bytes) + " bytes at " +
                                std::to_string(offset_bytes) + " ends behind its " +
                                std::to_string(size_bytes_) + " bytes");
  }
  std::byte* start = nullptr;
  ViewList views = arena_->MakeViews(record_, 1, &start);
  views.first()->managed.dl_tensor.data = start + offset_bytes;
  return views;
}

bool Block::moving() const {
  std::lock_guard lock(arena_->mutex_);
  return record_->moving;
}

void Block::WaitForMove() const {
  Arena::Lock lock(arena_->mutex_);
  arena_->WaitForMove(lock, record_);
}

}  // namespace missile
