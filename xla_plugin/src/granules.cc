#include "granules.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace missile {

GranulePool::GranulePool(std::shared_ptr<Arena> arena, std::shared_ptr<const ChannelMap> map)
    : arena_(std::move(arena)), pages_(std::move(map)) {
  const std::uint64_t whole = arena_->size_bytes() / kPageBytes;
  if (pages_.map().pages() != whole) {
    throw std::invalid_argument("granules: the channel map has " +
                                std::to_string(pages_.map().pages()) + " pages, and the arena " +
                                std::to_string(whole) + " whole ones");
  }
}

GranulePool::~GranulePool() {
  // Those whose handle went while they had a pin.
  while (first_ != nullptr) delete std::exchange(first_, first_->behind);
}

std::uint64_t GranulePool::GranulesFor(std::uint64_t size_bytes, const Channels& channels) const {
  if (size_bytes == 0 || size_bytes > arena_->size_bytes()) {
    throw std::invalid_argument("granules: " + std::to_string(size_bytes) +
                                " bytes were asked for, and they must be 1 to " +
                                std::to_string(arena_->size_bytes()));
  }
  map().Expect(channels);
  return (size_bytes + map().granule_bytes() - 1) / map().granule_bytes();
}

std::unique_ptr<Granules> GranulePool::Allocate(std::uint64_t size_bytes,
                                                const Channels& channels) {
  const std::uint64_t count = GranulesFor(size_bytes, channels);
  auto handle = std::make_unique<Granules>(shared_from_this(), size_bytes);
  auto record = std::make_unique<GranuleRecord>();
  record->channels = channels;
  record->size_bytes = size_bytes;
  record->table.reserve(count);

  std::lock_guard lock(mutex_);
  if (!Draw(channels, count, {}, &record->table)) {
    ++stats_.failures;
    return nullptr;
  }
  record->behind = first_;
  if (first_ != nullptr) first_->before = record.get();
  first_ = handle->record_ = record.release();
  stats_.requested_bytes += size_bytes;
  ++stats_.live;
  ++stats_.allocations;
  return handle;
}

bool GranulePool::Draw(const Channels& channels, std::uint64_t count,
                       const std::vector<std::uint64_t>& held, std::vector<std::uint32_t>* drawn) {
  std::vector<std::size_t> taken;
  bool enough = true;
  while (enough && pages_.FreeIn(channels) < count) {
    std::unique_ptr<Block> block = arena_->AllocatePage();
    enough = block != nullptr;
    if (!enough) break;
    const std::size_t page = block->offset() / kPageBytes;
    pages_.Add(page, std::move(block));
    taken.push_back(page);
  }
  if (enough) pages_.Draw(channels, count, held, drawn);
  // All that were taken, or those that have none of the channels.
  std::uint64_t used = 0;
  for (const std::size_t page : taken) {
    used += pages_.UsedOn(page) > 0 ? 1 : 0;
    GiveBackIfEmpty(page);
  }
  stats_.pages_taken += used;
  return enough;
}

bool GranulePool::Return(std::uint32_t granule) {
  return pages_.Return(granule) && GiveBackIfEmpty(pages_.PageOf(granule));
}

bool GranulePool::GiveBackIfEmpty(std::size_t page) {
  if (!pages_.Has(page) || pages_.UsedOn(page) > 0 || pages_.IsClosed(page)) return false;
  pages_.Remove(page);
  return true;
}

void GranulePool::FreeIfUnused(GranuleRecord* record) {
  if (record->state != BlockState::kWaiting || record->pins > 0 || record->moving) return;
  for (const std::uint32_t granule : record->table) Return(granule);
  record->table.clear();
  record->state = BlockState::kFree;
  stats_.requested_bytes -= record->size_bytes;
  --stats_.waiting;
  (record->before != nullptr ? record->before->behind : first_) = record->behind;
  if (record->behind != nullptr) record->behind->before = record->before;
  if (!record->has_handle) delete record;
}

void GranulePool::Release(GranuleRecord* record) {
  record->state = BlockState::kWaiting;
  --stats_.live;
  ++stats_.waiting;
  FreeIfUnused(record);
}

void GranulePool::DropHandle(GranuleRecord* record) {
  std::lock_guard lock(mutex_);
  record->has_handle = false;
  if (record->state == BlockState::kLive) {
    Release(record);
  } else if (record->state == BlockState::kFree) {
    delete record;
  }
}

void GranulePool::WaitForMove(Lock& lock, const GranuleRecord* record) {
  moved_.wait(lock, [record] { return !record->moving; });
}

GranuleStats GranulePool::Stats() const {
  std::lock_guard lock(mutex_);
  GranuleStats stats = stats_;
  stats.pages = pages_.count();
  for (std::uint32_t channel = 0; channel < map().channels(); ++channel) {
    stats.used.push_back(pages_.used_of(channel));
    stats.free.push_back(pages_.free_of(channel));
  }
  return stats;
}

void GranulePool::Check() const {
  std::lock_guard lock(mutex_);
  pages_.Check();
  GranuleStats seen;
  std::vector<bool> taken(map().pages() * map().granules_per_page());
  const GranuleRecord* before = nullptr;
  std::uint64_t used = 0;
  for (const GranuleRecord* record = first_; record != nullptr; record = record->behind) {
    Expect(record->before == before, "owners of granules are not linked both ways");
    const bool live = record->state == BlockState::kLive;
    Expect(live || record->state == BlockState::kWaiting, "a free owner has granules");
    Expect(live || record->pins > 0 || record->moving, "unused granules were not freed");
    const std::uint64_t granule_bytes = map().granule_bytes();
    Expect(record->table.size() == (record->size_bytes + granule_bytes - 1) / granule_bytes,
           "a table of granules has not its size");
    std::vector<bool> allowed(map().channels());
    for (const std::uint8_t channel : record->channels) allowed[channel] = true;
    for (const std::uint32_t granule : record->table) {
      Expect(granule < taken.size() && pages_.Has(pages_.PageOf(granule)),
             "a granule lies on no coloured page");
      Expect(!taken[granule], "a granule has two owners");
      Expect(!pages_.IsFree(granule), "a granule in use counts as free");
      const std::uint32_t channel = pages_.ChannelOf(granule);
      Expect(allowed[channel], "a granule lies in a channel that its owner must not use");
      taken[granule] = true;
      ++used;
    }
    seen.live += live ? 1 : 0;
    seen.waiting += live ? 0 : 1;
    seen.pins += record->pins;
    seen.requested_bytes += record->size_bytes;
    before = record;
  }
  std::uint64_t used_on_pages = 0;
  for (std::size_t page = 0; page < map().pages(); ++page) {
    if (!pages_.Has(page)) continue;
    used_on_pages += pages_.UsedOn(page);
    Expect(pages_.UsedOn(page) > 0, "an empty page was not given back");
  }
  Expect(used_on_pages == used + carried_, "a granule was lost");
  Expect(seen.live == stats_.live && seen.waiting == stats_.waiting, "a count of owners is off");
  Expect(seen.pins == stats_.pins, "the count of pins is off");
  Expect(seen.requested_bytes == stats_.requested_bytes, "the count of requested bytes is off");
}

Granules::~Granules() {
  if (record_ != nullptr) pool_->DropHandle(record_);
}

std::vector<std::uint32_t> Granules::table() const {
  std::lock_guard lock(pool_->mutex_);
  return record_->table;
}

std::uint64_t Granules::version() const {
  std::lock_guard lock(pool_->mutex_);
  return record_->version;
}

Channels Granules::channels() const {
  std::lock_guard lock(pool_->mutex_);
  return record_->channels;
}

BlockState Granules::state() const {
  std::lock_guard lock(pool_->mutex_);
  return record_->state;
}

bool Granules::moving() const {
  std::lock_guard lock(pool_->mutex_);
  return record_->moving;
}

void Granules::WaitForMove() const {
  GranulePool::Lock lock(pool_->mutex_);
  pool_->WaitForMove(lock, record_);
}

void Granules::Pin() {
  GranulePool::Lock lock(pool_->mutex_);
  pool_->WaitForMove(lock, record_);
  if (record_->state != BlockState::kLive) {
    throw std::invalid_argument("granules: they have been released, and can not be pinned");
  }
  ++record_->pins;
  ++pool_->stats_.pins;
}

void Granules::Unpin() {
  std::lock_guard lock(pool_->mutex_);
  if (record_->pins == 0) throw std::invalid_argument("granules: they have no pin to take off");
  --record_->pins;
  --pool_->stats_.pins;
  pool_->FreeIfUnused(record_);
}

void Granules::Release() {
  std::lock_guard lock(pool_->mutex_);
  if (record_->state != BlockState::kLive) {
    throw std::invalid_argument("granules: they have been released before");
  }
  pool_->Release(record_);
}

}  // namespace missile
