// The holes of an arena by size: two-level segregated fit (Masmano et al., "TLSF: a new dynamic
// memory allocator for real-time systems", 2004).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace missile {

struct BlockRecord;

// For checks. Throws std::runtime_error that says what does not hold.
void Expect(bool holds, const char* what);

// A stretch of the region: a hole, the space of one block, or where a block is moving to.
struct Span {
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
  // Neighbours in the region.
  Span* before = nullptr;
  Span* behind = nullptr;
  // Neighbours among the holes of one class.
  Span* previous = nullptr;
  Span* next = nullptr;
  BlockRecord* block = nullptr;
  bool hole = false;

  std::uint64_t end() const { return offset + size_bytes; }
};

// A class holds sizes that differ by less than 1/32. Sizes are multiples of the granule.
class HoleIndex {
 public:
  explicit HoleIndex(std::uint64_t granule_bytes);

  void Insert(Span* span);
  void Remove(Span* span);
  // A hole of at least `size_bytes`, or null if there is none. Looks at a few words and one hole,
  // except when the only holes that may fit are of the size's own class: then at all of that class.
  Span* Find(std::uint64_t size_bytes) const;
  // The lowest hole of at least `size_bytes` that starts before `offset`, or null. Looks at every
  // hole that is large enough.
  Span* LowestBelow(std::uint64_t size_bytes, std::uint64_t offset) const;
  // A hole that has `page_bytes` at a multiple of that, and the first such place in it; or a null.
  // Of the smallest class that has one: a page wants no large hole.
  struct Place {
    Span* hole = nullptr;
    std::uint64_t offset = 0;
  };
  Place FindPage(std::uint64_t page_bytes) const;
  // A hole that has `size_bytes` at one of `places`, which ascend, and which it is; or a null. Of
  // the smallest class that has one.
  Place FindOneOf(const std::vector<std::uint64_t>& places, std::uint64_t size_bytes) const;
  std::uint64_t LargestBytes() const;
  // Throws std::runtime_error unless bitmaps, lists and these totals agree.
  void Check(std::uint64_t holes, std::uint64_t free_bytes) const;

 private:
  static constexpr int kSecondLog2 = 5;
  static constexpr int kSeconds = 1 << kSecondLog2;
  // More rows than a region of 2^56 bytes fills with granules of 64.
  static constexpr int kFirsts = 56;

  std::uint64_t Granules(std::uint64_t size_bytes) const { return size_bytes >> granule_log2_; }
  static int ClassOf(std::uint64_t granules);
  // The first class of which every hole has at least this many granules.
  static int ClassAbove(std::uint64_t granules);
  // The first class from `from` on that has holes, or -1.
  int NextFilled(int from) const;

  int granule_log2_;
  std::uint64_t first_bits_ = 0;
  std::array<std::uint32_t, kFirsts> second_bits_{};
  std::array<Span*, std::size_t{kFirsts} * kSeconds> heads_{};
};

}  // namespace missile
