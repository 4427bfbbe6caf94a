#include "region.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "copy.h"
#include "no_memory.h"

namespace missile {

HostRegion::HostRegion(std::uint64_t size_bytes, bool prefault, bool huge_pages)
    : Region(size_bytes, {kDLCPU, 0}),
      page_bytes_(static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))) {
  constexpr std::uint64_t kLargest = std::uint64_t{1} << 56;
  if (size_bytes > kLargest) {
    throw NoMemory("arena: " + std::to_string(size_bytes) + " bytes is more than any machine has");
  }
  mapped_bytes_ = (size_bytes + page_bytes_ - 1) / page_bytes_ * page_bytes_;
  // mmap aligns to a small page only: map one huge page more and give back what sticks out.
  void* mapping = mmap(nullptr, mapped_bytes_ + kRegionAlignment, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    throw NoMemory("arena: the system refused " + std::to_string(size_bytes) +
                   " bytes: " + std::generic_category().message(errno));
  }
  auto* start = static_cast<std::byte*>(mapping);
  std::uint64_t head =
      kRegionAlignment - reinterpret_cast<std::uintptr_t>(start) % kRegionAlignment;
  base_ = start + head;
  munmap(start, head);
  if (head < kRegionAlignment) munmap(base_ + mapped_bytes_, kRegionAlignment - head);
#ifdef MADV_HUGEPAGE
  if (huge_pages) madvise(base_, mapped_bytes_, MADV_HUGEPAGE);
#endif
  if (prefault) Prefault();
}

HostRegion::~HostRegion() { munmap(base_, mapped_bytes_); }

// Blocks that move are idle: their bytes are kept from putting what is in use out of the caches.
void HostRegion::MoveDown(std::uint64_t to, std::uint64_t from, std::uint64_t size_bytes) {
  CopyBytes(base_ + to, base_ + from, size_bytes, Stores::kNonTemporal);
}

void HostRegion::Copy(const std::vector<CopyRange>& ranges) {
  for (const CopyRange& range : ranges) {
    std::memcpy(base_ + range.to, base_ + range.from, range.size_bytes);
  }
}

void HostRegion::Prefault() {
#ifdef MADV_POPULATE_WRITE
  if (madvise(base_, mapped_bytes_, MADV_POPULATE_WRITE) == 0) return;
#endif
  // Kernels before 5.14 fault a page when it is written to.
  for (std::uint64_t offset = 0; offset < mapped_bytes_; offset += page_bytes_) {
    *static_cast<volatile std::byte*>(base_ + offset) = std::byte{0};
  }
}

}  // namespace missile
