#include "pjrt_copies_test.h"

#include <cstring>
#include <functional>

#include "../pjrt/statistics.h"

namespace missile::pjrt::test {
namespace {

constexpr std::int64_t kCount = 1000;
constexpr std::int64_t kBytes = 4000;  // Two of these do not fit into the arena.
// A part of it.
constexpr std::int64_t kFirst = 100;
constexpr std::int64_t kSome = 200;

// What a copy that was begun has so far.
struct Begun {
  Event* done;
  const void* bytes;                   // Where they will be.
  Buffer* copy = nullptr;              // Null: they are the host's.
  std::function<void()> tell = [] {};  // Tells where they are to go.
};

class Copies {
 public:
  Copies(const Plugin& plugin, Bytes bytes_of, void (*pause)(bool))
      : plugin_(plugin), bytes_of_(bytes_of), pause_(pause), host_(kCount) {
    client_ = MakeClient(plugin, {{"missile_arena", "4KiB"}});
    for (std::int64_t i = 0; i < kCount; ++i) values_.push_back(static_cast<float>(i));
  }
  ~Copies() { DestroyClient(plugin_, client_); }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  Begun ToHostBuffer(Buffer* source) { return {ToHost(plugin_, source, &host_), host_.data()}; }
  Begun RawToHost(Buffer* source) {
    Question<Slot::kBufferCopyRawToHost> copy;
    SetPart(&copy, source);
    copy.data = host_.data();
    plugin_.Call(&copy);
    return {copy.done, host_.data()};
  }
  Begun RawToHostFuture(Buffer* source) {
    Question<Slot::kBufferCopyRawToHostFuture> copy;
    SetPart(&copy, source);
    plugin_.Call(&copy);
    return {copy.done, host_.data(), nullptr, [this, user = copy.user, tell = copy.tell] {
              HostTarget target{sizeof(HostTarget), user, 0, nullptr, 0, host_.data()};
              tell(&target);
            }};
  }
  Begun ToDevice(Buffer* source) {
    Question<Slot::kBufferCopyToDevice> copy;
    copy.device = DeviceOf(client_);
    return ToBuffer(&copy, source);
  }
  Begun ToMemory(Buffer* source, Memory* memory) {
    Question<Slot::kBufferCopyToMemory> copy;
    copy.memory = memory;
    return ToBuffer(&copy, source);
  }

  // A copy of `part` bytes from `first` on, to a buffer for which `charged` bytes are taken.
  template <typename Begin>
  void CheckHeld(const char* what, std::int64_t first, std::int64_t part, std::int64_t charged,
                 const Begin& begin) {
    pause_(true);
    Buffer* view = Upload(plugin_, client_, values_);
    const Begun begun = begin(view);
    Destroy(plugin_, view);
    CheckLate(what, first, part, charged, begun);
  }
  // An alias's view is held as well that was not there yet when the copy was asked for.
  void CheckHeldByAlias() {
    pause_(true);
    const Alias alias = MakeAlias(plugin_, client_, kCount);
    const Begun begun = ToDevice(alias.buffer);
    Buffer* view = Upload(plugin_, client_, values_);
    Fulfill(plugin_, client_, alias, view);
    Destroy(plugin_, view);
    Destroy(plugin_, alias.buffer);
    CheckLate("a copy of an alias", 0, kCount, kBytes, begun);
  }
  // Errors are the caller's, at once and by the event, and nothing stays held.
  void CheckErrors() {
    Buffer* view = Upload(plugin_, client_, values_);
    Question<Slot::kBufferToHostBuffer> short_copy;
    short_copy.buffer = view;
    short_copy.data = host_.data();
    short_copy.size_bytes = 1;
    Require(plugin_.Refusal(&short_copy) == "too little room", "another error");
    Question<Slot::kBufferCopyToMemory> nowhere;
    nowhere.buffer = view;
    Require(plugin_.Refusal(&nowhere) == "no memory", "another error");
    Question<Slot::kBufferCopyRawToHost> late;
    SetPart(&late, view);
    late.offset_bytes = kBytes;
    late.data = host_.data();
    plugin_.Call(&late);
    Require(Await(plugin_, late.done) == "a copy behind the end", "an event lost its error");
    Question<Slot::kBufferDelete> drop;
    drop.buffer = view;
    plugin_.Call(&drop);
    Question<Slot::kBufferCopyToDevice> copy;
    copy.buffer = view;
    copy.device = DeviceOf(client_);
    Require(plugin_.Refusal(&copy) == "deleted", "another error");
    CheckFree("an error");
    Destroy(plugin_, view);
  }
  // Who asks for a size gets no event; what is outside of the arena is not held.
  void CheckNotHeld() {
    const std::int64_t reads = statistics.reads_made;
    Buffer* view = Upload(plugin_, client_, values_);
    Question<Slot::kBufferToHostBuffer> size;
    size.buffer = view;
    size.done = reinterpret_cast<Event*>(&size);  // Not to be touched.
    plugin_.Call(&size);
    Require(size.size_bytes == static_cast<std::size_t>(kBytes), "a size was not told");
    Require(size.done == reinterpret_cast<Event*>(&size), "an event that is none was changed");
    Buffer* passed = Upload(plugin_, client_, values_);
    const Begun begun = ToHostBuffer(passed);
    Require(Await(plugin_, begun.done).empty() && host_ == values_, "a copy lost bytes");
    for (Buffer* buffer : {view, passed}) Destroy(plugin_, buffer);
    Require(statistics.reads_made == reads, "what reads no block was counted");
  }
  Client* client() const { return client_; }

 private:
  template <typename Copy>
  static void SetPart(Copy* copy, Buffer* source) {
    copy->buffer = source;
    copy->offset_bytes = kFirst * static_cast<std::int64_t>(sizeof(float));
    copy->size_bytes = kSome * static_cast<std::int64_t>(sizeof(float));
  }
  template <typename Copy>
  Begun ToBuffer(Copy* copy, Buffer* source) {
    copy->buffer = source;
    plugin_.Call(copy);
    Question<Slot::kBufferReadyEvent> ready;
    ready.buffer = copy->copy;
    plugin_.Call(&ready);
    return {ready.event, bytes_of_(copy->copy), copy->copy};
  }

  // The source's handles are gone.
  void CheckLate(const char* what, std::int64_t first, std::int64_t part, std::int64_t charged,
                 const Begun& begun) {
    Require(UsedBytes(plugin_, client_) == kBytes + charged, what);
    const std::int64_t full = statistics.uploads_passed_full;
    Buffer* other = Upload(plugin_, client_, std::vector<float>(kCount, -1.0F));
    Require(statistics.uploads_passed_full == full + 1, what);
    begun.tell();
    pause_(false);
    Require(Await(plugin_, begun.done).empty(), what);
    Require(std::memcmp(begun.bytes, values_.data() + first,
                        static_cast<std::size_t>(part) * sizeof(float)) == 0,
            what);
    Destroy(plugin_, other);
    Require(UsedBytes(plugin_, client_) == charged, what);
    if (begun.copy != nullptr) Destroy(plugin_, begun.copy);
    CheckFree(what);
  }
  // The block is there for the next.
  void CheckFree(const char* what) {
    Require(UsedBytes(plugin_, client_) == 0, what);
    const std::int64_t placed = statistics.uploads_placed;
    Destroy(plugin_, Upload(plugin_, client_, values_));
    Require(statistics.uploads_placed == placed + 1, what);
  }

  const Plugin& plugin_;
  const Bytes bytes_of_;
  void (*const pause_)(bool);
  Client* client_;
  std::vector<float> values_;
  std::vector<float> host_;
};

// A copy is charged like any buffer.
void CheckCap(const Plugin& plugin) {
  Client* client = MakeClient(plugin, {{"missile_memory", "6000"}, {"missile_tenant", "copier"}});
  Buffer* view = Upload(plugin, client, std::vector<float>(kCount));
  const std::int64_t reads = statistics.reads_made;
  Question<Slot::kBufferCopyToMemory> copy;
  copy.buffer = view;
  copy.memory = MemoryOf(client);
  Require(plugin.Refusal(&copy).find(
              "tenant 'copier' asks for 4000 bytes of device 0 for a copy") != std::string::npos,
          "a copy over the cap was not refused");
  Require(statistics.reads_made == reads && UsedBytes(plugin, client) == kBytes,
          "what was refused stays");
  Destroy(plugin, view);
  DestroyClient(plugin, client);
}

}  // namespace

void CheckCopies(const Plugin& plugin, Bytes bytes_of, void (*pause)(bool)) {
  {
    Copies copies(plugin, bytes_of, pause);
    copies.CheckHeld("to the host", 0, kCount, 0,
                     [&](Buffer* view) { return copies.ToHostBuffer(view); });
    copies.CheckHeld("a part to the host", kFirst, kSome, 0,
                     [&](Buffer* view) { return copies.RawToHost(view); });
    copies.CheckHeld("a part to where it is told later", kFirst, kSome, 0,
                     [&](Buffer* view) { return copies.RawToHostFuture(view); });
    copies.CheckHeld("to a device", 0, kCount, kBytes,
                     [&](Buffer* view) { return copies.ToDevice(view); });
    copies.CheckHeld("to a memory", 0, kCount, kBytes, [&](Buffer* view) {
      return copies.ToMemory(view, MemoryOf(copies.client()));
    });
    int elsewhere = 0;
    copies.CheckHeld("to another memory", 0, kCount, 0, [&](Buffer* view) {
      return copies.ToMemory(view, reinterpret_cast<Memory*>(&elsewhere));
    });
    copies.CheckHeldByAlias();
    copies.CheckErrors();
    copies.CheckNotHeld();
  }
  CheckCap(plugin);
}

}  // namespace missile::pjrt::test
