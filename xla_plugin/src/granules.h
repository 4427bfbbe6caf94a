// Memory by channel: granules of wanted channels, from pages of an arena.
//
// A page is taken from the arena when its granules are needed, and goes back with its last one; so
// blocks and granules share one arena without a border between them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "arena.h"
#include "channel_map.h"
#include "granule_pages.h"

namespace missile {

struct GranuleRecord {
  std::vector<std::uint32_t> table;  // [granules]
  Channels channels;
  std::uint64_t size_bytes = 0;
  std::uint64_t pins = 0;
  std::uint64_t version = 0;  // Of the table.
  BlockState state = BlockState::kLive;
  bool moving = false;
  bool has_handle = true;
  // Neighbours among all that have granules.
  GranuleRecord* before = nullptr;
  GranuleRecord* behind = nullptr;
};

struct GranuleStats {
  std::uint64_t pages = 0;
  std::vector<std::uint64_t> used;  // [channels], granules
  std::vector<std::uint64_t> free;  // [channels], granules of the pages that are here
  std::uint64_t requested_bytes = 0;
  std::uint64_t live = 0;
  std::uint64_t waiting = 0;
  std::uint64_t pins = 0;
  // Since the pool was made.
  std::uint64_t allocations = 0;
  std::uint64_t failures = 0;
  std::uint64_t moved_granules = 0;
  std::uint64_t pages_taken = 0;
};

class Granules;

// Safe on any thread. No lock is held while bytes are copied. Its lock comes before the arena's.
class GranulePool : public std::enable_shared_from_this<GranulePool> {
 public:
  // The map has each whole page of the arena. Throws std::invalid_argument.
  GranulePool(std::shared_ptr<Arena> arena, std::shared_ptr<const ChannelMap> map);
  ~GranulePool();
  GranulePool(const GranulePool&) = delete;
  GranulePool& operator=(const GranulePool&) = delete;

  const ChannelMap& map() const { return pages_.map(); }
  Arena& arena() const { return *arena_; }

  // Null if the arena has no page for what is missing. Throws std::invalid_argument.
  std::unique_ptr<Granules> Allocate(std::uint64_t size_bytes, const Channels& channels);
  // Moves blocks of the arena until it has the pages that Allocate() needs. For none of them are
  // more than `most_bytes` moved. Returns whether it has them now.
  bool MakeRoom(std::uint64_t size_bytes, const Channels& channels, std::uint64_t most_bytes);
  // Moves what lies elsewhere into `channels`, and evens out what each of those has. False, and
  // nothing is changed, if a launch uses it, or the arena has no page for what has to move. Throws
  // what a device that fails throws; nothing is changed then either.
  bool Recolour(const Granules& granules, const Channels& channels);
  // Empties pages by moving their granules into others, each within its owner's channels, as long
  // as one page fewer will do. An owner that has other channels makes way for those that have not,
  // even if its own are less even then. Returns how many pages went back to the arena.
  std::uint64_t Gather();
  GranuleStats Stats() const;
  // Throws std::runtime_error if what the pool knows contradicts itself, the map or the arena.
  void Check() const;

 private:
  friend class Granules;
  using Lock = std::unique_lock<std::mutex>;

  // Granules of one owner, by their places in its table, and where each is to go.
  struct Move {
    GranuleRecord* record;
    std::vector<std::size_t> places;
    std::vector<std::uint32_t> to;
  };

  // Throws std::invalid_argument.
  std::uint64_t GranulesFor(std::uint64_t size_bytes, const Channels& channels) const;
  // Draws as GranulePages does, after it has taken the pages for it. False if the arena has too
  // few, and nothing is drawn.
  bool Draw(const Channels& channels, std::uint64_t count, const std::vector<std::uint64_t>& held,
            std::vector<std::uint32_t>* drawn);
  // Both return whether the granule's page, or this one, went back to the arena.
  bool Return(std::uint32_t granule);
  bool GiveBackIfEmpty(std::size_t page);
  void FreeIfUnused(GranuleRecord* record);
  void Release(GranuleRecord* record);
  void DropHandle(GranuleRecord* record);
  void WaitForMove(Lock& lock, const GranuleRecord* record);
  static bool Movable(const GranuleRecord* record);

  // What has to move for the table to lie in `channels`, evenly; `held` is what stays, by channel.
  std::vector<std::size_t> Misplaced(const GranuleRecord* record, const Channels& channels,
                                     std::vector<std::uint64_t>* held) const;
  // Moves from channels that are short of free granules to those that have more than the average,
  // if more pages can be emptied then.
  std::vector<Move> PlanLevelling();
  std::uint64_t EmptyPages(Lock& lock);
  // What an owner has on one page, by places in its table.
  struct Lodger {
    GranuleRecord* record;
    std::vector<std::size_t> places;
  };
  using Lodgers = std::unordered_map<std::size_t, std::vector<Lodger>>;
  using MoveOf = std::unordered_map<GranuleRecord*, Move>;
  Lodgers LodgersOf(const std::vector<std::size_t>& pages) const;
  // Whether a page's lodgers are all there is on it, and can move.
  bool Settled(std::size_t page, const std::vector<Lodger>& lodgers) const;
  // Adds moves of all of them to other pages; or none and false, if there are not enough granules.
  bool Rehouse(const std::vector<Lodger>& lodgers, MoveOf* moves);
  // Copies without the lock, then changes the tables. On an error they stay as they are. Returns
  // how many pages went back to the arena.
  std::uint64_t Carry(Lock& lock, std::vector<Move>* moves);

  const std::shared_ptr<Arena> arena_;
  mutable std::mutex mutex_;
  std::condition_variable moved_;
  GranulePages pages_;
  GranuleRecord* first_ = nullptr;
  std::uint64_t carried_ = 0;  // Granules that a move has drawn and not handed over yet.
  GranuleStats stats_;
};

// The owner's handle. Without it the granules are released.
class Granules {
 public:
  Granules(std::shared_ptr<GranulePool> pool, std::uint64_t size_bytes)
      : pool_(std::move(pool)), size_bytes_(size_bytes) {}
  ~Granules();
  Granules(const Granules&) = delete;
  Granules& operator=(const Granules&) = delete;

  std::uint64_t size_bytes() const { return size_bytes_; }
  const GranulePool& pool() const { return *pool_; }
  // A copy of the table: stays true while the granules are pinned. Empty once they are free.
  std::vector<std::uint32_t> table() const;
  // Counts changes of the table.
  std::uint64_t version() const;
  Channels channels() const;
  BlockState state() const;
  bool moving() const;
  void WaitForMove() const;

  // As those of a block: a launch that reads the granules holds a pin until its end was observed.
  void Pin();
  void Unpin();
  void Release();

 private:
  friend class GranulePool;

  std::shared_ptr<GranulePool> pool_;
  GranuleRecord* record_ = nullptr;
  std::uint64_t size_bytes_;
};

}  // namespace missile
