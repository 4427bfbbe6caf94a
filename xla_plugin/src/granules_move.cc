// How granules move: to other channels, and off pages that are hardly used.
#include <algorithm>
#include <exception>
#include <limits>
#include <stdexcept>
#include <utility>

#include "granules.h"

namespace missile {

bool GranulePool::Movable(const GranuleRecord* record) {
  return record->state == BlockState::kLive && record->pins == 0 && !record->moving;
}

bool GranulePool::MakeRoom(std::uint64_t size_bytes, const Channels& channels,
                           std::uint64_t most_bytes) {
  const std::uint64_t count = GranulesFor(size_bytes, channels);
  // Whatever lies there, such a hole has a whole page.
  const std::uint64_t hole_bytes = 2 * kPageBytes - arena_->alignment();
  Lock lock(mutex_);
  std::uint64_t free = pages_.FreeIn(channels);
  lock.unlock();
  std::vector<std::unique_ptr<Block>> made;
  const auto unpin = [&made] {
    for (const std::unique_ptr<Block>& block : made) block->Unpin();
  };
  while (free < count) {
    std::unique_ptr<Block> block = arena_->AllocatePage();
    if (block == nullptr) {
      try {
        if (!arena_->MakeRoom(hole_bytes, most_bytes)) break;
      } catch (...) {
        unpin();
        throw;
      }
      continue;
    }
    const PageColours& colours = map().page(block->offset() / kPageBytes);
    for (const std::uint8_t channel : channels) {
      free += colours.first[channel + 1U] - colours.first[channel];
    }
    made.push_back(std::move(block));
  }
  unpin();
  return free >= count;
}

std::vector<std::size_t> GranulePool::Misplaced(const GranuleRecord* record,
                                                const Channels& channels,
                                                std::vector<std::uint64_t>* held) const {
  const std::size_t count = record->table.size();
  constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();
  std::vector<std::size_t> index_of(map().channels(), kNowhere);
  for (std::size_t index = 0; index < channels.size(); ++index) index_of[channels[index]] = index;
  std::vector<std::uint64_t> own(channels.size());
  for (const std::uint32_t granule : record->table) {
    const std::size_t index = index_of[pages_.ChannelOf(granule)];
    if (index != kNowhere) ++own[index];
  }
  // Of a channel that has more than its part only so many stay, evenly spread over the table.
  const std::uint64_t part = (count + channels.size() - 1) / channels.size();
  std::vector<std::size_t> misplaced;
  std::vector<std::uint64_t> seen(channels.size());
  held->assign(channels.size(), 0);
  for (std::size_t place = 0; place < count; ++place) {
    const std::size_t index = index_of[pages_.ChannelOf(record->table[place])];
    if (index != kNowhere) {
      const std::uint64_t stays = std::min(own[index], part);
      const std::uint64_t nth = seen[index]++;
      if ((nth + 1) * stays / own[index] > nth * stays / own[index]) {
        ++(*held)[index];
        continue;
      }
    }
    misplaced.push_back(place);
  }
  return misplaced;
}

bool GranulePool::Recolour(const Granules& granules, const Channels& channels) {
  if (granules.pool_.get() != this) {
    throw std::invalid_argument("granules: those to recolour are of another pool");
  }
  map().Expect(channels);
  Lock lock(mutex_);
  GranuleRecord* record = granules.record_;
  if (!Movable(record)) return false;
  std::vector<std::uint64_t> held;
  std::vector<Move> moves(1);
  moves[0].record = record;
  moves[0].places = Misplaced(record, channels, &held);
  const std::uint64_t count = moves[0].places.size();
  if (count > 0) {
    if (!Draw(channels, count, held, &moves[0].to)) {
      ++stats_.failures;
      return false;
    }
    Carry(lock, &moves);
  }
  record->channels = channels;
  return true;
}

GranulePool::Lodgers GranulePool::LodgersOf(const std::vector<std::size_t>& pages) const {
  Lodgers lodgers;
  for (const std::size_t page : pages) lodgers[page];
  for (GranuleRecord* record = first_; record != nullptr; record = record->behind) {
    for (std::size_t place = 0; place < record->table.size(); ++place) {
      const auto found = lodgers.find(pages_.PageOf(record->table[place]));
      if (found == lodgers.end()) continue;
      std::vector<Lodger>& of_page = found->second;
      if (of_page.empty() || of_page.back().record != record) of_page.push_back({record, {}});
      of_page.back().places.push_back(place);
    }
  }
  return lodgers;
}

bool GranulePool::Settled(std::size_t page, const std::vector<Lodger>& lodgers) const {
  std::uint64_t found = 0;
  for (const Lodger& lodger : lodgers) {
    if (!Movable(lodger.record)) return false;
    found += lodger.places.size();
  }
  // What a move in flight has drawn has no owner yet.
  return found == pages_.UsedOn(page);
}

bool GranulePool::Rehouse(const std::vector<Lodger>& lodgers, MoveOf* moves) {
  std::vector<Move> planned;
  // In the same channel as far as there is room; then the rest, so that nobody takes of a channel
  // what another has no choice but to take.
  std::vector<std::vector<std::size_t>> rest;
  for (const auto& [record, places] : lodgers) {
    planned.push_back({record, {}, {}});
    rest.emplace_back();
    for (const std::size_t place : places) {
      const auto channel = static_cast<std::uint8_t>(pages_.ChannelOf(record->table[place]));
      if (pages_.free_of(channel) == 0) {
        rest.back().push_back(place);
        continue;
      }
      pages_.Draw({channel}, 1, {}, &planned.back().to);
      planned.back().places.push_back(place);
    }
  }
  bool enough = true;
  for (std::size_t index = 0; enough && index < lodgers.size(); ++index) {
    const std::vector<std::size_t>& places = rest[index];
    Move& move = planned[index];
    enough = pages_.FreeIn(move.record->channels) >= places.size();
    if (!enough || places.empty()) continue;
    pages_.Draw(move.record->channels, places.size(), {}, &move.to);
    move.places.insert(move.places.end(), places.begin(), places.end());
  }
  for (const Move& move : planned) {
    if (!enough) {
      for (const std::uint32_t granule : move.to) Return(granule);
      continue;
    }
    Move& all = moves->try_emplace(move.record, Move{move.record, {}, {}}).first->second;
    all.places.insert(all.places.end(), move.places.begin(), move.places.end());
    all.to.insert(all.to.end(), move.to.begin(), move.to.end());
  }
  return enough;
}

std::vector<GranulePool::Move> GranulePool::PlanLevelling() {
  const std::uint32_t channels = std::max(map().channels(), 1U);
  std::uint64_t free = 0;
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  for (std::uint32_t channel = 0; channel < channels; ++channel) {
    free += pages_.free_of(channel);
    least = std::min(least, pages_.free_of(channel));
  }
  // As many pages can be emptied as the scarcest channel has free granules for.
  const std::uint64_t level = free / channels;
  const std::uint64_t of_page = std::max(map().granules_per_page() / channels, 1U);
  std::vector<Move> moves;
  if (level / of_page <= least / of_page) return moves;
  std::vector<std::uint64_t> short_of(channels);
  for (std::uint32_t channel = 0; channel < channels; ++channel) {
    short_of[channel] = level - std::min(level, pages_.free_of(channel));
  }
  for (GranuleRecord* record = first_; record != nullptr; record = record->behind) {
    if (!Movable(record)) continue;
    Channels ample;
    std::uint64_t spare = 0;
    for (const std::uint8_t channel : record->channels) {
      if (pages_.free_of(channel) <= level) continue;
      ample.push_back(channel);
      spare += pages_.free_of(channel) - level;
    }
    Move move{record, {}, {}};
    for (std::size_t place = 0; place < record->table.size() && spare > 0; ++place) {
      std::uint64_t& missing = short_of[pages_.ChannelOf(record->table[place])];
      if (missing == 0) continue;
      --missing;
      --spare;
      move.places.push_back(place);
    }
    if (move.places.empty()) continue;
    pages_.Draw(ample, move.places.size(), {}, &move.to);
    moves.push_back(std::move(move));
  }
  return moves;
}

std::uint64_t GranulePool::Gather() {
  Lock lock(mutex_);
  std::vector<Move> levelling = PlanLevelling();
  const std::uint64_t emptied = levelling.empty() ? 0 : Carry(lock, &levelling);
  return emptied + EmptyPages(lock);
}

std::uint64_t GranulePool::EmptyPages(Lock& lock) {
  std::vector<std::size_t> pages;
  std::uint64_t free = 0;
  for (std::size_t page = 0; page < map().pages(); ++page) {
    if (!pages_.Has(page) || pages_.IsClosed(page)) continue;
    pages.push_back(page);
    free += map().granules_per_page() - pages_.UsedOn(page);
  }
  // The sparsest. No more of them can go than the free granules make up.
  std::stable_sort(pages.begin(), pages.end(), [this](std::size_t one, std::size_t other) {
    return pages_.UsedOn(one) < pages_.UsedOn(other);
  });
  pages.resize(free / map().granules_per_page());
  for (const std::size_t page : pages) pages_.Close(page);
  const Lodgers lodgers = LodgersOf(pages);
  MoveOf moves;
  std::vector<std::size_t> leaving;
  std::size_t end = pages.size();
  for (std::size_t index = 0; index < end;) {
    const std::vector<Lodger>& of_page = lodgers.at(pages[index]);
    if (!Settled(pages[index], of_page)) {
      pages_.Open(pages[index++]);
    } else if (Rehouse(of_page, &moves)) {
      leaving.push_back(pages[index++]);
    } else {
      pages_.Open(pages[--end]);  // The fullest stays, to take in what the sparsest has.
    }
  }
  auto reopen = [&] {
    std::uint64_t emptied = 0;
    for (const std::size_t page : leaving) {
      pages_.Open(page);
      emptied += pages_.UsedOn(page) == 0 ? 1 : 0;
      GiveBackIfEmpty(page);
    }
    return emptied;
  };
  if (leaving.empty()) return 0;
  std::vector<Move> all;
  for (auto& [record, move] : moves) all.push_back(std::move(move));
  try {
    Carry(lock, &all);
  } catch (...) {
    reopen();
    throw;
  }
  return reopen();
}

std::uint64_t GranulePool::Carry(Lock& lock, std::vector<Move>* moves) {
  const std::uint64_t granule_bytes = map().granule_bytes();
  std::vector<CopyRange> ranges;
  std::uint64_t granules = 0;
  for (Move& move : *moves) {
    move.record->moving = true;
    granules += move.places.size();
    for (std::size_t index = 0; index < move.places.size(); ++index) {
      const std::uint32_t from = move.record->table[move.places[index]];
      ranges.push_back({move.to[index] * granule_bytes, from * granule_bytes, granule_bytes});
    }
  }
  carried_ += granules;
  lock.unlock();
  std::exception_ptr failure;
  try {
    arena_->Copy(ranges);
  } catch (...) {
    failure = std::current_exception();
  }
  lock.lock();
  carried_ -= granules;
  std::uint64_t emptied = 0;
  for (Move& move : *moves) {
    GranuleRecord* record = move.record;
    for (std::size_t index = 0; index < move.places.size(); ++index) {
      std::uint32_t left = move.to[index];
      if (failure == nullptr) {
        std::swap(left, record->table[move.places[index]]);
      }
      if (Return(left)) ++emptied;
    }
    record->moving = false;
    if (failure == nullptr) {
      stats_.moved_granules += move.places.size();
      ++record->version;
    }
    // Its owner may have released it meanwhile.
    FreeIfUnused(record);
  }
  moved_.notify_all();
  if (failure != nullptr) std::rethrow_exception(failure);
  return emptied;
}

}  // namespace missile
