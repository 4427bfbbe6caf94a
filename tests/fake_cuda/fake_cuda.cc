// A fake CUDA driver: a library with the calls of libcuda.so.1 that missile-jax makes, on the
// host's memory. It shows what a GPU does that a CPU does not, and nothing of a GPU's speed:
//
// - Streams are threads, and run late, by random delays of a seed. Nothing but an event or a
//   synchronisation tells when they are done.
// - Device memory can not be touched by the host: an address of it is mapped without access, and
//   the driver itself works on a second mapping of the same pages.
// - Misuse is noted: memory that is not there, no current context, handles of the dead.
// - Functions whose names begin with `fake` are for tests: they hold streams, launch a kernel, let
//   calls fail, and tell what was left behind.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Result = int;
using Address = std::uint64_t;

constexpr Result kSuccess = 0;
constexpr Result kInvalidValue = 1;
constexpr Result kOutOfMemory = 2;
constexpr Result kNotInitialized = 3;
constexpr Result kInvalidDevice = 101;
constexpr Result kInvalidContext = 201;
constexpr Result kInvalidHandle = 400;

const std::map<Result, std::pair<const char*, const char*>> kErrors = {
    {kInvalidValue, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {kOutOfMemory, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {kNotInitialized, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {kInvalidDevice, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {kInvalidContext, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {kInvalidHandle, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
};

constexpr std::size_t kDevices = 2;

struct Context {
  int retained = 0;
};

// Reached once a stream has come to where it was recorded.
class Moment {
 public:
  void Reach() {
    const std::lock_guard<std::mutex> lock(mutex_);
    reached_ = true;
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return reached_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
};

// Work in order, on a thread that takes its time.
class Stream {
 public:
  Stream(const Context* context, unsigned seed, int most_us, bool held)
      : context(context), random_(seed), most_us_(most_us), held_(held), thread_([this] {
          Run();
        }) {}
  ~Stream() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ended_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

  void Add(std::function<void()> work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_.push_back(std::move(work));
    changed_.notify_all();
  }
  std::shared_ptr<Moment> Mark() {
    auto moment = std::make_shared<Moment>();
    Add([moment] { moment->Reach(); });
    return moment;
  }
  // While it is held a stream begins nothing.
  void Hold(bool held) {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_ = held;
    changed_.notify_all();
  }

  const Context* const context;

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !held_ && (ended_ || !work_.empty()); });
      if (work_.empty()) return;
      const std::function<void()> work = std::move(work_.front());
      work_.pop_front();
      const int delay_us = most_us_ == 0 ? 0 : static_cast<int>(random_() % most_us_);
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
      work();
      lock.lock();
    }
  }

  std::mt19937 random_;
  const int most_us_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  bool held_;
  bool ended_ = false;
  std::thread thread_;
};

struct Event {
  std::shared_ptr<Moment> recorded;
};

// Device memory: where the driver sees it.
struct Memory {
  std::size_t size_bytes;
  std::byte* inside;
};

struct Driver {
  std::mutex mutex;
  bool started = false;
  std::array<Context, kDevices> contexts;
  std::map<Address, Memory> memory;
  std::map<Address, std::size_t> pinned;
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::uint64_t used_bytes = 0;

  std::map<std::string, int> calls;
  std::string failing;
  int fails_at = 0;
  Result failure = kSuccess;
  std::uint64_t limit_bytes = UINT64_MAX;
  std::uint64_t unpinned_copies = 0;
  std::string misuse;
  unsigned seed = 0;
  int most_us = 200;
  bool hold_all = false;
};

// Never destroyed: streams may outlive static objects.
Driver& driver() {
  static auto* one = new Driver();
  return *one;
}

std::vector<Context*>& Current() {
  thread_local std::vector<Context*> stack;
  return stack;
}

Result Misuse(const char* call, const std::string& what, Result result) {
  driver().misuse += std::string(call) + ": " + what + "\n";
  return result;
}

enum class Needs { kNothing, kStart, kContext };

// Counts a call. What it returns is injected, or for a call that comes too early.
Result Enter(const char* call, Needs needs) {
  Driver& d = driver();
  const int count = ++d.calls[call];
  if (d.failing == call && count == d.fails_at) return d.failure;
  if (needs != Needs::kNothing && !d.started) return Misuse(call, "before cuInit", kNotInitialized);
  if (needs == Needs::kContext && Current().empty()) {
    return Misuse(call, "without a current context", kInvalidContext);
  }
  return kSuccess;
}

// Device memory as the driver sees it, or null, which is noted.
std::byte* Inside(const char* call, Address address, std::size_t size_bytes) {
  Driver& d = driver();
  auto after = d.memory.upper_bound(address);
  if (after != d.memory.begin()) {
    const auto& [start, memory] = *std::prev(after);
    const std::uint64_t offset = address - start;
    if (offset <= memory.size_bytes && size_bytes <= memory.size_bytes - offset) {
      return memory.inside + offset;
    }
  }
  Misuse(call, std::to_string(size_bytes) + " bytes that are not device memory", kInvalidValue);
  return nullptr;
}

bool Pinned(Address address, std::size_t size_bytes) {
  const auto& pinned = driver().pinned;
  auto after = pinned.upper_bound(address);
  if (after == pinned.begin()) return false;
  const auto& [start, length] = *std::prev(after);
  return address - start <= length && size_bytes <= length - (address - start);
}

// The stream, or null, which is noted.
Stream* Known(const char* call, Stream* stream) {
  if (driver().streams.count(stream) == 0) {
    Misuse(call, "a stream that there is not", kInvalidHandle);
    return nullptr;
  }
  if (stream->context != Current().back()) {
    Misuse(call, "a stream of another context", kInvalidHandle);
    return nullptr;
  }
  return stream;
}

// Both ends are looked up anew when the copy runs: memory may have been freed meanwhile.
struct End {
  std::byte* host;
  Address device;

  std::byte* Find(const char* call, std::size_t size_bytes) const {
    return host != nullptr ? host : Inside(call, device, size_bytes);
  }
};

void Run(const char* call, End to, End from, std::size_t size_bytes) {
  std::byte* target = nullptr;
  const std::byte* source = nullptr;
  {
    const std::lock_guard<std::mutex> lock(driver().mutex);
    target = to.Find(call, size_bytes);
    source = from.Find(call, size_bytes);
  }
  if (target != nullptr && source != nullptr) std::memcpy(target, source, size_bytes);
}

// As the driver: memory of the host's that is not pinned is read at once, or written before the
// call returns.
Result CopyAsync(const char* call, End to, End from, std::size_t size_bytes, Stream* stream) {
  std::shared_ptr<Moment> written;
  {
    const std::lock_guard<std::mutex> lock(driver().mutex);
    if (const Result result = Enter(call, Needs::kContext)) return result;
    if (Known(call, stream) == nullptr) return kInvalidHandle;
    if (to.Find(call, size_bytes) == nullptr || from.Find(call, size_bytes) == nullptr) {
      return kInvalidValue;
    }
    const bool device_only = to.host == nullptr && from.host == nullptr;
    if (device_only && to.device < from.device + size_bytes &&
        from.device < to.device + size_bytes) {
      return Misuse(call, "ranges that overlap", kInvalidValue);
    }
    const std::byte* host = to.host != nullptr ? to.host : from.host;
    if (device_only || Pinned(reinterpret_cast<Address>(host), size_bytes)) {
      stream->Add([=] { Run(call, to, from, size_bytes); });
      return kSuccess;
    }
    ++driver().unpinned_copies;
    if (from.host != nullptr) {
      auto read = std::make_shared<std::vector<std::byte>>(from.host, from.host + size_bytes);
      stream->Add([=] { Run(call, to, {read->data(), 0}, size_bytes); });
      return kSuccess;
    }
    stream->Add([=] { Run(call, to, from, size_bytes); });
    written = stream->Mark();
  }
  written->Wait();
  return kSuccess;
}

std::vector<std::shared_ptr<Moment>> MarkAll() {
  std::vector<std::shared_ptr<Moment>> moments;
  for (Stream* stream : driver().streams) moments.push_back(stream->Mark());
  return moments;
}

const char* Kept(std::string text) {
  thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

}  // namespace

extern "C" {

Result cuInit(unsigned /*flags*/) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuInit", Needs::kNothing)) return result;
  driver().started = true;
  return kSuccess;
}

Result cuGetErrorName(Result error, const char** name) {
  const auto found = kErrors.find(error);
  if (found == kErrors.end()) return kInvalidValue;
  *name = found->second.first;
  return kSuccess;
}

Result cuGetErrorString(Result error, const char** meaning) {
  const auto found = kErrors.find(error);
  if (found == kErrors.end()) return kInvalidValue;
  *meaning = found->second.second;
  return kSuccess;
}

Result cuDeviceGetCount(int* count) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDeviceGetCount", Needs::kStart)) return result;
  *count = static_cast<int>(kDevices);
  return kSuccess;
}

Result cuDeviceGet(int* device, int ordinal) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDeviceGet", Needs::kStart)) return result;
  if (ordinal < 0 || ordinal >= static_cast<int>(kDevices)) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

// As much as may be allocated.
Result cuDeviceTotalMem_v2(std::size_t* size_bytes, int /*device*/) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDeviceTotalMem_v2", Needs::kStart)) return result;
  *size_bytes = driver().limit_bytes;
  return kSuccess;
}

Result cuDeviceGetName(char* name, int size, int /*device*/) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDeviceGetName", Needs::kStart)) return result;
  std::snprintf(name, static_cast<std::size_t>(size), "Fake GPU");
  return kSuccess;
}

Result cuDeviceGetUuid_v2(char* uuid, int device) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDeviceGetUuid_v2", Needs::kStart)) return result;
  std::memset(uuid, device, 16);
  return kSuccess;
}

Result cuDeviceGetPCIBusId(char* place, int size, int device) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDeviceGetPCIBusId", Needs::kStart)) return result;
  std::snprintf(place, static_cast<std::size_t>(size), "0000:%02x:00.0", device);
  return kSuccess;
}

Result cuDriverGetVersion(int* version) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDriverGetVersion", Needs::kNothing)) return result;
  *version = 12080;
  return kSuccess;
}

Result cuDevicePrimaryCtxRetain(Context** context, int device) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuDevicePrimaryCtxRetain", Needs::kStart)) return result;
  *context = &driver().contexts.at(device);
  ++(*context)->retained;
  return kSuccess;
}

Result cuDevicePrimaryCtxRelease_v2(int device) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  Driver& d = driver();
  constexpr const char* kCall = "cuDevicePrimaryCtxRelease_v2";
  if (const Result result = Enter(kCall, Needs::kStart)) return result;
  Context& context = d.contexts.at(device);
  if (context.retained == 0) return Misuse(kCall, "a context not retained", kInvalidContext);
  if (--context.retained == 0) {
    for (const Stream* stream : d.streams) {
      if (stream->context == &context) Misuse(kCall, "a stream is left in it", kSuccess);
    }
  }
  return kSuccess;
}

Result cuCtxPushCurrent_v2(Context* context) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  constexpr const char* kCall = "cuCtxPushCurrent_v2";
  if (const Result result = Enter(kCall, Needs::kStart)) return result;
  if (context->retained == 0) return Misuse(kCall, "a context not retained", kInvalidContext);
  Current().push_back(context);
  return kSuccess;
}

Result cuCtxPopCurrent_v2(Context** context) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuCtxPopCurrent_v2", Needs::kContext)) return result;
  *context = Current().back();
  Current().pop_back();
  return kSuccess;
}

Result cuMemAlloc_v2(Address* address, std::size_t size_bytes) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  Driver& d = driver();
  if (const Result result = Enter("cuMemAlloc_v2", Needs::kContext)) return result;
  if (size_bytes == 0) return kInvalidValue;
  if (size_bytes > d.limit_bytes - d.used_bytes) return kOutOfMemory;
  const int file = memfd_create("fake-cuda", 0);
  if (file < 0) return kOutOfMemory;
  void* inside = MAP_FAILED;
  void* outside = MAP_FAILED;
  if (ftruncate(file, static_cast<off_t>(size_bytes)) == 0) {
    inside = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    outside = mmap(nullptr, size_bytes, PROT_NONE, MAP_SHARED, file, 0);
  }
  close(file);
  if (inside == MAP_FAILED || outside == MAP_FAILED) return kOutOfMemory;
  *address = reinterpret_cast<Address>(outside);
  d.memory[*address] = {size_bytes, static_cast<std::byte*>(inside)};
  d.used_bytes += size_bytes;
  return kSuccess;
}

// As the driver does, once all streams have done what they were asked for.
Result cuMemFree_v2(Address address) {
  std::vector<std::shared_ptr<Moment>> moments;
  {
    const std::lock_guard<std::mutex> lock(driver().mutex);
    constexpr const char* kCall = "cuMemFree_v2";
    if (const Result result = Enter(kCall, Needs::kContext)) return result;
    if (driver().memory.count(address) == 0) {
      return Misuse(kCall, "memory that there is not", kInvalidValue);
    }
    moments = MarkAll();
  }
  for (const auto& moment : moments) moment->Wait();
  const std::lock_guard<std::mutex> lock(driver().mutex);
  const auto found = driver().memory.find(address);
  const auto [size_bytes, inside] = found->second;
  munmap(inside, size_bytes);
  munmap(reinterpret_cast<void*>(address), size_bytes);
  driver().used_bytes -= size_bytes;
  driver().memory.erase(found);
  return kSuccess;
}

Result cuMemHostAlloc(void** data, std::size_t size_bytes, unsigned /*flags*/) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuMemHostAlloc", Needs::kContext)) return result;
  *data = std::malloc(size_bytes);
  if (*data == nullptr) return kOutOfMemory;
  driver().pinned[reinterpret_cast<Address>(*data)] = size_bytes;
  return kSuccess;
}

Result cuMemFreeHost(void* data) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  constexpr const char* kCall = "cuMemFreeHost";
  if (const Result result = Enter(kCall, Needs::kContext)) return result;
  if (driver().pinned.erase(reinterpret_cast<Address>(data)) == 0) {
    return Misuse(kCall, "memory that there is not", kInvalidValue);
  }
  std::free(data);
  return kSuccess;
}

Result cuPointerGetAttribute(void* value, int attribute, Address address) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuPointerGetAttribute", Needs::kContext)) return result;
  constexpr int kMemoryType = 2;
  if (attribute != kMemoryType || !Pinned(address, 1)) return kInvalidValue;
  *static_cast<unsigned*>(value) = 1;  // CU_MEMORYTYPE_HOST
  return kSuccess;
}

Result cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t size_bytes, Stream* stream) {
  auto* host = const_cast<std::byte*>(static_cast<const std::byte*>(from));
  return CopyAsync("cuMemcpyHtoDAsync_v2", {nullptr, to}, {host, 0}, size_bytes, stream);
}

Result cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t size_bytes, Stream* stream) {
  End host{static_cast<std::byte*>(to), 0};
  return CopyAsync("cuMemcpyDtoHAsync_v2", host, {nullptr, from}, size_bytes, stream);
}

Result cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t size_bytes, Stream* stream) {
  return CopyAsync("cuMemcpyDtoDAsync_v2", {nullptr, to}, {nullptr, from}, size_bytes, stream);
}

Result cuStreamCreate(Stream** stream, unsigned /*flags*/) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  Driver& d = driver();
  if (const Result result = Enter("cuStreamCreate", Needs::kContext)) return result;
  *stream = new Stream(Current().back(), ++d.seed, d.most_us, d.hold_all);
  d.streams.insert(*stream);
  return kSuccess;
}

Result cuStreamSynchronize(Stream* stream) {
  std::shared_ptr<Moment> moment;
  {
    const std::lock_guard<std::mutex> lock(driver().mutex);
    constexpr const char* kCall = "cuStreamSynchronize";
    if (const Result result = Enter(kCall, Needs::kContext)) return result;
    if (Known(kCall, stream) == nullptr) return kInvalidHandle;
    moment = stream->Mark();
  }
  moment->Wait();
  return kSuccess;
}

Result cuStreamDestroy_v2(Stream* stream) {
  {
    const std::lock_guard<std::mutex> lock(driver().mutex);
    constexpr const char* kCall = "cuStreamDestroy_v2";
    if (const Result result = Enter(kCall, Needs::kContext)) return result;
    if (Known(kCall, stream) == nullptr) return kInvalidHandle;
    driver().streams.erase(stream);
  }
  delete stream;
  return kSuccess;
}

Result cuEventCreate(Event** event, unsigned /*flags*/) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("cuEventCreate", Needs::kContext)) return result;
  *event = new Event();
  driver().events.insert(*event);
  return kSuccess;
}

Result cuEventRecord(Event* event, Stream* stream) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  constexpr const char* kCall = "cuEventRecord";
  if (const Result result = Enter(kCall, Needs::kContext)) return result;
  if (driver().events.count(event) == 0) {
    return Misuse(kCall, "an event that there is not", kInvalidHandle);
  }
  if (Known(kCall, stream) == nullptr) return kInvalidHandle;
  event->recorded = stream->Mark();
  return kSuccess;
}

Result cuEventSynchronize(Event* event) {
  std::shared_ptr<Moment> moment;
  {
    const std::lock_guard<std::mutex> lock(driver().mutex);
    constexpr const char* kCall = "cuEventSynchronize";
    if (const Result result = Enter(kCall, Needs::kContext)) return result;
    if (driver().events.count(event) == 0) {
      return Misuse(kCall, "an event that there is not", kInvalidHandle);
    }
    moment = event->recorded;
  }
  if (moment != nullptr) moment->Wait();
  return kSuccess;
}

Result cuEventDestroy_v2(Event* event) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  constexpr const char* kCall = "cuEventDestroy_v2";
  if (const Result result = Enter(kCall, Needs::kContext)) return result;
  if (driver().events.erase(event) == 0) {
    return Misuse(kCall, "an event that there is not", kInvalidHandle);
  }
  delete event;
  return kSuccess;
}

// A kernel: adds up the bytes that lie there when it runs. `sum` is written by the stream.
Result fakeSum(Stream* stream, Address address, std::size_t size_bytes, std::uint64_t* sum) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("fakeSum", Needs::kContext)) return result;
  if (Known("fakeSum", stream) == nullptr) return kInvalidHandle;
  stream->Add([=] {
    const std::byte* bytes = nullptr;
    {
      const std::lock_guard<std::mutex> inner(driver().mutex);
      bytes = Inside("fakeSum", address, size_bytes);
    }
    std::uint64_t total = 0;
    for (std::size_t k = 0; bytes != nullptr && k < size_bytes; ++k) {
      total += std::to_integer<std::uint64_t>(bytes[k]);
    }
    *sum = total;
  });
  return kSuccess;
}

// A kernel: writes the bytes that lie at `from` when it runs, each with `value` added, to `to`.
Result fakeAdd(Stream* stream, Address to, Address from, std::size_t size_bytes, unsigned value) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (const Result result = Enter("fakeAdd", Needs::kContext)) return result;
  if (Known("fakeAdd", stream) == nullptr) return kInvalidHandle;
  stream->Add([=] {
    std::byte* target = nullptr;
    const std::byte* source = nullptr;
    {
      const std::lock_guard<std::mutex> inner(driver().mutex);
      target = Inside("fakeAdd", to, size_bytes);
      source = Inside("fakeAdd", from, size_bytes);
    }
    for (std::size_t k = 0; target != nullptr && source != nullptr && k < size_bytes; ++k) {
      target[k] = static_cast<std::byte>(std::to_integer<unsigned>(source[k]) + value);
    }
  });
  return kSuccess;
}

// One stream, or with null all that there are and will be.
void fakeHold(Stream* stream, int held) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  if (stream != nullptr) {
    stream->Hold(held != 0);
    return;
  }
  driver().hold_all = held != 0;
  for (Stream* each : driver().streams) each->Hold(held != 0);
}

// The n-th call from now fails. For n = 0 none does.
void fakeFail(const char* call, int nth, Result result) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  Driver& d = driver();
  d.failing = call;
  d.fails_at = nth == 0 ? 0 : d.calls[call] + nth;
  d.failure = result;
}

void fakeLimit(std::uint64_t size_bytes) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  driver().limit_bytes = size_bytes;
}

// For streams that are made from now on: each step begins up to `most_us` late.
void fakeDelays(unsigned seed, int most_us) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  driver().seed = seed;
  driver().most_us = most_us;
}

int fakeCalls(const char* call) {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  return driver().calls[call];
}

// Copies from or to memory that was not pinned.
std::uint64_t fakeUnpinnedCopies() {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  return driver().unpinned_copies;
}

// What is not given back; empty if all is.
const char* fakeLeaks() {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  const Driver& d = driver();
  std::string text;
  auto add = [&text](std::size_t count, const char* what) {
    if (count > 0) text += std::to_string(count) + " " + what + "; ";
  };
  add(d.memory.size(), "device allocations");
  add(d.pinned.size(), "pinned allocations");
  add(d.streams.size(), "streams");
  add(d.events.size(), "events");
  for (const Context& context : d.contexts) {
    add(static_cast<std::size_t>(context.retained), "contexts");
  }
  return Kept(text);
}

// What was misused since the last call.
const char* fakeMisuse() {
  const std::lock_guard<std::mutex> lock(driver().mutex);
  std::string text;
  text.swap(driver().misuse);
  return Kept(text);
}

}  // extern "C"
