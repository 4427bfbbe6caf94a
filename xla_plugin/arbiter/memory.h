// Shared memory of fixed size, and file descriptors that close themselves.
#pragma once

#include <cstddef>
#include <utility>

namespace missile::arbiter {

// An open file, closed at the end.
class File {
 public:
  File() = default;
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File();
  File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int get() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

// Bytes that two processes see, mapped for as long as this lives.
class Mapping {
 public:
  Mapping() = default;
  // `address`: replaces what is mapped there. Throws std::system_error.
  Mapping(const File& file, std::size_t size_bytes, bool writable, void* address = nullptr);
  ~Mapping();
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_bytes_(other.size_bytes_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void* data() const { return data_; }
  // What was mapped at this address by another one belongs to that one now.
  void Forget() { data_ = nullptr; }

 private:
  void* data_ = nullptr;
  std::size_t size_bytes_ = 0;
};

// A new memfd of zeros whose size is sealed. Throws std::system_error.
File MakeMemory(const char* name, std::size_t size_bytes);
// From now on nobody can map it to write, whoever has it mapped already aside. False where the
// kernel, older than 5.1, has no such seal.
bool SealAgainstWriting(const File& file);
// Whether it is a memfd of this size that cannot become smaller: reading it never faults.
bool IsSealed(const File& file, std::size_t size_bytes);

}  // namespace missile::arbiter
