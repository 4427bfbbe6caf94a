#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace missile::arbiter {
namespace {

[[noreturn]] void Throw(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

Mapping::Mapping(const File& file, std::size_t size_bytes, bool writable, void* address)
    : size_bytes_(size_bytes) {
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  const int flags = MAP_SHARED | (address != nullptr ? MAP_FIXED : 0);
  void* data = mmap(address, size_bytes, protection, flags, file.get(), 0);
  if (data == MAP_FAILED) Throw("arbiter: mmap of shared memory");
  data_ = data;
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

File MakeMemory(const char* name, std::size_t size_bytes) {
  File file(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file) Throw("arbiter: memfd_create");
  if (ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0) Throw("arbiter: ftruncate");
  if (fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    Throw("arbiter: sealing the size of shared memory");
  }
  return file;
}

bool SealAgainstWriting(const File& file) {
  return fcntl(file.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0;
}

bool IsSealed(const File& file, std::size_t size_bytes) {
  const int seals = fcntl(file.get(), F_GET_SEALS);
  struct stat about{};
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstat(file.get(), &about) == 0 &&
         static_cast<std::size_t>(about.st_size) == size_bytes;
}

}  // namespace missile::arbiter
