// Views of a block: tensors that share its memory and keep its space from being used again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "dlpack.h"

namespace missile {

class Arena;
class ViewSet;
struct BlockRecord;

// Bytes of a compact tensor. Throws std::invalid_argument for a negative axis or too many bytes.
std::uint64_t TensorBytes(const std::vector<std::int64_t>& shape, DLDataType dtype);

struct ViewEntry {
  std::uint64_t offset_bytes;
  std::vector<std::int64_t> shape;
  DLDataType dtype;
};

// Where the tensors of a block lie; made once, used each time that views are made.
class ViewLayout {
 public:
  explicit ViewLayout(std::vector<ViewEntry> entries);

  const std::vector<ViewEntry>& entries() const { return entries_; }
  // Throws std::invalid_argument unless every tensor lies within `size_bytes`, at a multiple of
  // `alignment`, which is a power of two.
  void CheckFits(std::uint64_t size_bytes, std::uint64_t alignment) const;

 private:
  std::vector<ViewEntry> entries_;
  // The end of the tensor that reaches furthest, and the offsets' low bits: a check at a glance.
  std::uint64_t end_bytes_ = 0;
  std::uint64_t offset_bits_ = 0;
};

// One view. Its shape is the layout's. block: what it counts for; null while it is parked.
struct View {
  DLManagedTensor managed{};
  std::shared_ptr<Arena> arena;
  std::shared_ptr<const ViewLayout> layout;
  BlockRecord* block = nullptr;
  ViewSet* set = nullptr;
  View* next = nullptr;
};

// Ends a view. Safe on any thread; needs no GIL.
void DropView(View* view);

// Views that nobody has taken yet. Those left at the end are dropped.
class ViewList {
 public:
  ViewList() = default;
  ~ViewList() {
    while (first_ != nullptr) DropView(Take());
  }
  ViewList(ViewList&& other) noexcept : first_(other.first_) { other.first_ = nullptr; }
  ViewList(const ViewList&) = delete;
  ViewList& operator=(const ViewList&) = delete;

  View* first() const { return first_; }
  void Add(View* view) {
    view->next = first_;
    first_ = view;
  }
  View* Take() {
    View* view = first_;
    first_ = view->next;
    view->next = nullptr;
    return view;
  }

 private:
  View* first_ = nullptr;
};

}  // namespace missile
