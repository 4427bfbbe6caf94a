// Nodes that are handed out and taken back without the heap, once enough of them exist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace missile {

// `Node` has a member `Node* next`, which belongs to the pool while the node is not in use.
template <typename Node>
class Pool {
 public:
  explicit Pool(std::size_t slabs) {
    for (std::size_t made = 0; made < slabs; ++made) Grow();
    growths_ = 0;
  }

  // After this one `Take`, or two, can not fail. Throws std::bad_alloc.
  void EnsureOne() {
    if (unused_ == nullptr) Grow();
  }

  void EnsureTwo() {
    if (unused_ == nullptr || unused_->next == nullptr) Grow();
  }

  Node* Take() {
    EnsureOne();
    Node* node = unused_;
    unused_ = node->next;
    node->next = nullptr;
    ++taken_;
    return node;
  }

  void Return(Node* node) {
    *node = Node{};
    node->next = unused_;
    unused_ = node;
    --taken_;
  }

  std::uint64_t taken() const { return taken_; }
  // Times that the heap was asked for more since the constructor returned.
  std::uint64_t growths() const { return growths_; }

 private:
  static constexpr std::size_t kSlabNodes = 1024;

  void Grow() {
    auto slab = std::make_unique<Node[]>(kSlabNodes);
    slabs_.push_back(std::move(slab));
    for (std::size_t index = kSlabNodes; index-- > 0;) {
      Node& node = slabs_.back()[index];
      node.next = unused_;
      unused_ = &node;
    }
    ++growths_;
  }

  std::vector<std::unique_ptr<Node[]>> slabs_;
  Node* unused_ = nullptr;
  std::uint64_t taken_ = 0;
  std::uint64_t growths_ = 0;
};

}  // namespace missile
