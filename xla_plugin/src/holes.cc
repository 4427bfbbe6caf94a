#include "holes.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace missile {
namespace {

int HighestBit(std::uint64_t bits) { return 63 - __builtin_clzll(bits); }
int LowestBit(std::uint64_t bits) { return __builtin_ctzll(bits); }

}  // namespace

void Expect(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("arena: ") + what);
}

HoleIndex::HoleIndex(std::uint64_t granule_bytes) : granule_log2_(HighestBit(granule_bytes)) {}

int HoleIndex::ClassOf(std::uint64_t granules) {
  if (granules < kSeconds) return static_cast<int>(granules);
  int shift = HighestBit(granules) - kSecondLog2;
  return shift * kSeconds + static_cast<int>(granules >> shift);
}

int HoleIndex::ClassAbove(std::uint64_t granules) {
  if (granules < kSeconds) return ClassOf(granules);
  int shift = HighestBit(granules) - kSecondLog2;
  return ClassOf(granules + (std::uint64_t{1} << shift) - 1);
}

int HoleIndex::NextFilled(int from) const {
  int first = from / kSeconds;
  std::uint32_t seconds = second_bits_[first] & (~std::uint32_t{0} << (from % kSeconds));
  if (seconds == 0) {
    std::uint64_t firsts = first_bits_ & (~std::uint64_t{0} << (first + 1));
    if (firsts == 0) return -1;
    first = LowestBit(firsts);
    seconds = second_bits_[first];
  }
  return first * kSeconds + LowestBit(seconds);
}

void HoleIndex::Insert(Span* span) {
  int index = ClassOf(Granules(span->size_bytes));
  span->hole = true;
  span->previous = nullptr;
  span->next = heads_[index];
  if (span->next != nullptr) span->next->previous = span;
  heads_[index] = span;
  second_bits_[index / kSeconds] |= std::uint32_t{1} << (index % kSeconds);
  first_bits_ |= std::uint64_t{1} << (index / kSeconds);
}

void HoleIndex::Remove(Span* span) {
  if (span->next != nullptr) span->next->previous = span->previous;
  if (span->previous != nullptr) {
    span->previous->next = span->next;
  } else {
    int index = ClassOf(Granules(span->size_bytes));
    heads_[index] = span->next;
    if (span->next == nullptr) {
      std::uint32_t& seconds = second_bits_[index / kSeconds];
      seconds &= ~(std::uint32_t{1} << (index % kSeconds));
      if (seconds == 0) first_bits_ &= ~(std::uint64_t{1} << (index / kSeconds));
    }
  }
  span->hole = false;
  span->previous = span->next = nullptr;
}

Span* HoleIndex::Find(std::uint64_t size_bytes) const {
  Span* own = heads_[ClassOf(Granules(size_bytes))];
  // Often the very hole that a block of this size has left.
  if (own != nullptr && own->size_bytes >= size_bytes) return own;
  int filled = NextFilled(ClassAbove(Granules(size_bytes)));
  if (filled >= 0) return heads_[filled];
  for (Span* span = own; span != nullptr; span = span->next) {
    if (span->size_bytes >= size_bytes) return span;
  }
  return nullptr;
}

Span* HoleIndex::LowestBelow(std::uint64_t size_bytes, std::uint64_t offset) const {
  Span* lowest = nullptr;
  int filled = NextFilled(ClassOf(Granules(size_bytes)));
  for (; filled >= 0; filled = NextFilled(filled + 1)) {
    for (Span* span = heads_[filled]; span != nullptr; span = span->next) {
      if (span->size_bytes < size_bytes || span->offset >= offset) continue;
      lowest = span;
      offset = span->offset;
    }
  }
  return lowest;
}

HoleIndex::Place HoleIndex::FindPage(std::uint64_t page_bytes) const {
  int filled = NextFilled(ClassOf(Granules(page_bytes)));
  for (; filled >= 0; filled = NextFilled(filled + 1)) {
    for (Span* span = heads_[filled]; span != nullptr; span = span->next) {
      const std::uint64_t offset = (span->offset + page_bytes - 1) / page_bytes * page_bytes;
      if (offset + page_bytes <= span->end()) return {span, offset};
    }
  }
  return {};
}

HoleIndex::Place HoleIndex::FindOneOf(const std::vector<std::uint64_t>& places,
                                      std::uint64_t size_bytes) const {
  int filled = places.empty() ? -1 : NextFilled(ClassOf(Granules(size_bytes)));
  for (; filled >= 0; filled = NextFilled(filled + 1)) {
    for (Span* span = heads_[filled]; span != nullptr; span = span->next) {
      const auto place = std::lower_bound(places.begin(), places.end(), span->offset);
      if (place != places.end() && *place + size_bytes <= span->end()) return {span, *place};
    }
  }
  return {};
}

std::uint64_t HoleIndex::LargestBytes() const {
  if (first_bits_ == 0) return 0;
  int first = HighestBit(first_bits_);
  std::uint64_t largest = 0;
  Span* span = heads_[first * kSeconds + HighestBit(second_bits_[first])];
  for (; span != nullptr; span = span->next) {
    if (span->size_bytes > largest) largest = span->size_bytes;
  }
  return largest;
}

void HoleIndex::Check(std::uint64_t holes, std::uint64_t free_bytes) const {
  for (int first = 0; first < kFirsts; ++first) {
    Expect((first_bits_ >> first & 1U) == (second_bits_[first] != 0 ? 1U : 0U),
           "the bitmap of size classes disagrees with those below it");
    for (int second = 0; second < kSeconds; ++second) {
      int index = first * kSeconds + second;
      Expect((second_bits_[first] >> second & 1U) == (heads_[index] != nullptr ? 1U : 0U),
             "a bitmap of size classes disagrees with its lists");
      Span* previous = nullptr;
      for (Span* span = heads_[index]; span != nullptr; span = span->next) {
        Expect(span->hole, "a list of holes has a block");
        Expect(span->previous == previous, "a list of holes is not linked both ways");
        Expect(ClassOf(Granules(span->size_bytes)) == index, "a hole is in the wrong class");
        Expect(holes > 0 && free_bytes >= span->size_bytes, "the lists have more than the region");
        --holes;
        free_bytes -= span->size_bytes;
        previous = span;
      }
    }
  }
  Expect(holes == 0 && free_bytes == 0, "a hole of the region is in no list");
}

}  // namespace missile
