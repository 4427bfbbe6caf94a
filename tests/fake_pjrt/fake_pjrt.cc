// A PJRT plugin without a device, for the sanitizers: its programs copy their first argument, on a
// thread of its own, some time after they were launched, and so do all copies of buffers. As on a
// GPU, a view's end is told when its handle is ended, also while launches and copies that read it
// are still to run; a view that is donated ends the process. One device, "cpu", one memory.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../../xla_plugin/pjrt/api.h"

namespace missile::pjrt {

struct Error {
  std::string message;
};

struct Event {
  std::mutex mutex;
  bool ready = false;
  std::string error;  // Empty for none.
  std::vector<std::pair<void (*)(Error*, void*), void*>> callbacks;
};

// What an alias shows, once it is fulfilled. Launches that took the alias read it then.
struct Fulfilment {
  std::shared_ptr<std::vector<std::byte>> own;  // Null for a view's memory, which it does not hold.
  const std::byte* data = nullptr;
};

struct Buffer {
  std::shared_ptr<std::vector<std::byte>> own;  // Null for a view and an alias.
  std::byte* data = nullptr;
  std::size_t size_bytes = 0;
  void (*on_delete)(void*, void*) = nullptr;
  void* on_delete_user = nullptr;
  std::shared_ptr<Fulfilment> alias = nullptr;
  std::shared_ptr<Event> ready = nullptr;  // Null: it has been from the start.
};

// Buffers that nobody has retrieved yet, or null.
struct TransferManager {
  std::vector<std::unique_ptr<Buffer>> buffers;
};

struct LoadedExecutable {
  bool donates = false;
};

struct Executable : LoadedExecutable {};
struct Device {};
struct Memory {};
struct Client {};

namespace {

Device device;
Memory memory;
std::atomic<int> in_flight{0};
std::atomic<int> most_in_flight{0};

// Events are the caller's and the work's.
using Held = std::shared_ptr<Event>;

Event* Handle(const Held& event) { return reinterpret_cast<Event*>(new Held(event)); }
Held& Of(Event* handle) { return *reinterpret_cast<Held*>(handle); }

Error* ErrorOf(const Held& event) {
  return event->error.empty() ? nullptr : new Error{event->error};
}

void SetReady(const Held& event, const std::string& error = "") {
  std::vector<std::pair<void (*)(Error*, void*), void*>> callbacks;
  {
    std::lock_guard lock(event->mutex);
    event->ready = true;
    event->error = error;
    callbacks.swap(event->callbacks);
  }
  for (auto& [callback, user] : callbacks) callback(ErrorOf(event), user);
}

// The device: does one thing after another.
class Worker {
 public:
  Worker() : thread_([this] { Work(); }) {}
  ~Worker() {
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  void Enqueue(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }
  void Pause(bool paused) {
    {
      std::lock_guard lock(mutex_);
      paused_ = paused;
    }
    wake_.notify_one();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ended_ || (!paused_ && !tasks_.empty()); });
      if (tasks_.empty()) return;
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool ended_ = false;
  bool paused_ = false;
  std::thread thread_;
};

Worker& TheWorker() {
  static Worker worker;
  return worker;
}

void EndMemory(Buffer* buffer) {
  if (buffer->on_delete != nullptr) {
    std::exchange(buffer->on_delete, nullptr)(buffer->data, buffer->on_delete_user);
  }
  buffer->own.reset();
  buffer->alias.reset();
}

constexpr int kF32 = 11;

std::size_t BytesOf(const std::int64_t* dims, std::size_t num_dims) {
  std::size_t bytes = 4;
  for (std::size_t i = 0; i < num_dims; ++i) bytes *= static_cast<std::size_t>(dims[i]);
  return bytes;
}

std::unique_ptr<Buffer> MakeOwn(std::size_t bytes) {
  auto own = std::make_shared<std::vector<std::byte>>(bytes);
  return std::unique_ptr<Buffer>(new Buffer{own, own->data(), bytes});
}

Event* Ready() {
  auto ready = std::make_shared<Event>();
  ready->ready = true;
  return Handle(ready);
}

void ErrorDestroy(Arguments<Slot::kErrorDestroy>* args) { delete args->error; }

void ErrorMessage(Arguments<Slot::kErrorMessage>* args) {
  args->message = args->error->message.c_str();
  args->message_size = args->error->message.size();
}

Error* ErrorGetCode(Arguments<Slot::kErrorGetCode>* args) {
  args->code = static_cast<int>(Code::kInternal);
  return nullptr;
}

Error* EventDestroy(Arguments<Slot::kEventDestroy>* args) {
  delete reinterpret_cast<Held*>(args->event);
  return nullptr;
}

Error* EventOnReady(Arguments<Slot::kEventOnReady>* args) {
  Held event = Of(args->event);
  {
    std::lock_guard lock(event->mutex);
    if (!event->ready) {
      event->callbacks.emplace_back(args->callback, args->user);
      return nullptr;
    }
  }
  args->callback(ErrorOf(event), args->user);
  return nullptr;
}

Error* ClientCreate(Arguments<Slot::kClientCreate>* args) {
  for (std::size_t i = 0; i < args->num_options; ++i) {
    if (std::string(args->options[i].name, args->options[i].name_size) != "known") {
      return new Error{"an option that nobody knows"};
    }
  }
  args->client = new Client;
  return nullptr;
}

Error* ClientDestroy(Arguments<Slot::kClientDestroy>* args) {
  delete args->client;
  return nullptr;
}

Error* ClientPlatformName(Arguments<Slot::kClientPlatformName>* args) {
  args->name = "cpu";
  args->name_size = 3;
  return nullptr;
}

Error* ClientAddressableDevices(Arguments<Slot::kClientAddressableDevices>* args) {
  static Device* const devices[] = {&device};
  args->devices = devices;
  args->num_devices = 1;
  return nullptr;
}

Error* DeviceLocalHardwareId(Arguments<Slot::kDeviceLocalHardwareId>* args) {
  args->id = 0;
  return nullptr;
}

Error* DeviceDefaultMemory(Arguments<Slot::kDeviceDefaultMemory>* args) {
  args->memory = &memory;
  return nullptr;
}

Error* DeviceMemoryStats(Arguments<Slot::kDeviceMemoryStats>* /*args*/) {
  return new Error{"nothing is counted here"};
}

// Dense bytes, four an element, of which only uploads that can not be placed come here.
Error* BufferFromHostBuffer(Arguments<Slot::kClientBufferFromHostBuffer>* args) {
  std::unique_ptr<Buffer> buffer = MakeOwn(BytesOf(args->dims, args->num_dims));
  std::copy_n(static_cast<const std::byte*>(args->data), buffer->size_bytes, buffer->data);
  args->buffer = buffer.release();
  args->done_with_host_buffer = Ready();
  return nullptr;
}

Error* CreateView(Arguments<Slot::kClientCreateViewOfDeviceBuffer>* args) {
  if (args->type != kF32) return new Error{"no views of this type"};
  args->buffer =
      new Buffer{nullptr, static_cast<std::byte*>(args->data), BytesOf(args->dims, args->num_dims),
                 args->on_delete, args->on_delete_user};
  return nullptr;
}

Error* CreateAlias(Arguments<Slot::kClientCreateAliasBuffer>* args) {
  auto* buffer = new Buffer;
  buffer->size_bytes = BytesOf(args->dims, args->num_dims);
  buffer->alias = std::make_shared<Fulfilment>();
  args->alias = buffer;
  args->fulfilment = reinterpret_cast<Fulfilment*>(new std::shared_ptr<Fulfilment>(buffer->alias));
  return nullptr;
}

Error* FulfillAlias(Arguments<Slot::kClientFulfillAliasBuffer>* args) {
  std::unique_ptr<std::shared_ptr<Fulfilment>> fulfilment(
      reinterpret_cast<std::shared_ptr<Fulfilment>*>(args->fulfilment));
  if (args->status_code != 0) return new Error{{args->message, args->message_size}};
  **fulfilment = {args->buffer->own, args->buffer->data};
  return nullptr;
}

Error* CreateBuffersForAsync(Arguments<Slot::kClientCreateBuffersForAsyncHostToDevice>* args) {
  auto manager = std::make_unique<TransferManager>();
  for (std::size_t i = 0; i < args->num_shapes; ++i) {
    const ShapeSpec& shape = args->shapes[i];
    if (shape.type != kF32) return new Error{"no transfers of this type"};
    manager->buffers.push_back(MakeOwn(BytesOf(shape.dims, shape.num_dims)));
  }
  args->manager = manager.release();
  return nullptr;
}

Error* TransferData(Arguments<Slot::kAsyncHostToDeviceTransferManagerTransferData>* args) {
  std::copy_n(static_cast<const std::byte*>(args->data), args->size_bytes,
              args->manager->buffers.at(args->index)->data + args->offset_bytes);
  args->done = Ready();
  return nullptr;
}

Error* RetrieveBuffer(Arguments<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer>* args) {
  std::unique_ptr<Buffer>& buffer = args->manager->buffers.at(args->index);
  if (buffer == nullptr) return new Error{"retrieved before"};
  args->buffer = buffer.release();
  return nullptr;
}

Error* DestroyManager(Arguments<Slot::kAsyncHostToDeviceTransferManagerDestroy>* args) {
  delete args->manager;
  return nullptr;
}

Error* BufferDestroy(Arguments<Slot::kBufferDestroy>* args) {
  EndMemory(args->buffer);
  delete args->buffer;
  return nullptr;
}

Error* BufferDelete(Arguments<Slot::kBufferDelete>* args) {
  EndMemory(args->buffer);
  return nullptr;
}

Error* BufferOnDeviceSizeInBytes(Arguments<Slot::kBufferOnDeviceSizeInBytes>* args) {
  args->size_bytes = args->buffer->size_bytes;
  return nullptr;
}

Error* BufferMemory(Arguments<Slot::kBufferMemory>* args) {
  args->memory = &memory;
  return nullptr;
}

Error* BufferReadyEvent(Arguments<Slot::kBufferReadyEvent>* args) {
  args->event = args->buffer->ready != nullptr ? Handle(args->buffer->ready) : Ready();
  return nullptr;
}

// What work reads when it is its turn. A view's memory is not kept for it.
struct Source {
  explicit Source(const Buffer* buffer)
      : keep(buffer->own),
        data(buffer->data),
        size_bytes(buffer->size_bytes),
        alias(buffer->alias) {}
  const std::byte* bytes() const { return alias != nullptr ? alias->data : data; }

  std::shared_ptr<std::vector<std::byte>> keep;
  const std::byte* data;
  std::size_t size_bytes;
  std::shared_ptr<Fulfilment> alias;
};

bool IsDeleted(const Buffer* buffer) {
  return buffer->own == nullptr && buffer->on_delete == nullptr && buffer->alias == nullptr;
}

// A part that is not there is found out late.
void EnqueueToHost(const Source& source, std::int64_t offset_bytes, std::int64_t size_bytes,
                   void* data, const Held& done) {
  TheWorker().Enqueue([=] {
    if (static_cast<std::size_t>(offset_bytes + size_bytes) > source.size_bytes) {
      SetReady(done, "a copy behind the end");
      return;
    }
    std::memcpy(data, source.bytes() + offset_bytes, static_cast<std::size_t>(size_bytes));
    SetReady(done);
  });
}

Error* ToHostBuffer(Arguments<Slot::kBufferToHostBuffer>* args) {
  if (args->data == nullptr) {  // And no event.
    args->size_bytes = args->buffer->size_bytes;
    return nullptr;
  }
  if (IsDeleted(args->buffer)) return new Error{"deleted"};
  if (args->size_bytes < args->buffer->size_bytes) return new Error{"too little room"};
  auto done = std::make_shared<Event>();
  args->done = Handle(done);
  EnqueueToHost(Source(args->buffer), 0, static_cast<std::int64_t>(args->buffer->size_bytes),
                args->data, done);
  return nullptr;
}

Error* CopyRawToHost(Arguments<Slot::kBufferCopyRawToHost>* args) {
  if (IsDeleted(args->buffer)) return new Error{"deleted"};
  auto done = std::make_shared<Event>();
  args->done = Handle(done);
  EnqueueToHost(Source(args->buffer), args->offset_bytes, args->size_bytes, args->data, done);
  return nullptr;
}

// A copy whose caller is still to tell where to.
struct Untold {
  Source source;
  std::int64_t offset_bytes;
  std::int64_t size_bytes;
  Held done;
};

void Tell(HostTarget* target) {
  std::unique_ptr<Untold> copy(static_cast<Untold*>(target->user));
  EnqueueToHost(copy->source, copy->offset_bytes, copy->size_bytes, target->data, copy->done);
}

Error* CopyRawToHostFuture(Arguments<Slot::kBufferCopyRawToHostFuture>* args) {
  if (IsDeleted(args->buffer)) return new Error{"deleted"};
  auto done = std::make_shared<Event>();
  args->done = Handle(done);
  args->user = new Untold{Source(args->buffer), args->offset_bytes, args->size_bytes, done};
  args->tell = Tell;
  return nullptr;
}

// A new buffer that is ready when it has the source's bytes; `after` is done just before.
Buffer* EnqueueCopy(const Buffer* from, std::function<void()> after) {
  std::unique_ptr<Buffer> copy = MakeOwn(from->size_bytes);
  copy->ready = std::make_shared<Event>();
  TheWorker().Enqueue(
      [source = Source(from), own = copy->own, ready = copy->ready, after = std::move(after)] {
        std::memcpy(own->data(), source.bytes(), own->size());
        after();
        SetReady(ready);
      });
  return copy.release();
}

Error* CopyToDevice(Arguments<Slot::kBufferCopyToDevice>* args) {
  if (IsDeleted(args->buffer)) return new Error{"deleted"};
  args->copy = EnqueueCopy(args->buffer, [] {});
  return nullptr;
}

// Any memory is the one.
Error* CopyToMemory(Arguments<Slot::kBufferCopyToMemory>* args) {
  if (IsDeleted(args->buffer)) return new Error{"deleted"};
  if (args->memory == nullptr) return new Error{"no memory"};
  args->copy = EnqueueCopy(args->buffer, [] {});
  return nullptr;
}

Error* ClientCompile(Arguments<Slot::kClientCompile>* args) {
  const std::string code(args->program->code, args->program->code_size);
  args->executable = new LoadedExecutable{code.find("buffer_donor") != std::string::npos};
  return nullptr;
}

Error* LoadedExecutableDestroy(Arguments<Slot::kLoadedExecutableDestroy>* args) {
  delete args->loaded;
  return nullptr;
}

Error* AddressableDevices(Arguments<Slot::kLoadedExecutableAddressableDevices>* args) {
  static Device* const devices[] = {&device};
  args->devices = devices;
  args->num_devices = 1;
  return nullptr;
}

Error* GetExecutable(Arguments<Slot::kLoadedExecutableGetExecutable>* args) {
  args->executable = new Executable{*args->loaded};
  return nullptr;
}

Error* ExecutableDestroy(Arguments<Slot::kExecutableDestroy>* args) {
  delete args->executable;
  return nullptr;
}

Error* NumOutputs(Arguments<Slot::kExecutableNumOutputs>* args) {
  args->num_outputs = 1;
  return nullptr;
}

Error* CompiledMemoryStats(Arguments<Slot::kExecutableGetCompiledMemoryStats>* args) {
  args->temp_bytes = 1000;
  args->output_bytes = 100;
  return nullptr;
}

// HloModuleProto with output 0 in parameter 0.
Error* OptimizedProgram(Arguments<Slot::kExecutableOptimizedProgram>* args) {
  static const std::string kAliased("\x42\x02\x0a\x00", 4);
  Program& program = *args->program;
  program.format = "hlo";
  program.format_size = 3;
  program.code_size = args->executable->donates ? kAliased.size() : 0;
  if (program.code != nullptr) std::memcpy(program.code, kAliased.data(), program.code_size);
  return nullptr;
}

Error* Execute(Arguments<Slot::kLoadedExecutableExecute>* args) {
  const Buffer* source = args->arguments[0][0];
  if (IsDeleted(source)) return new Error{"deleted"};
  const ExecuteOptions& options = *args->options;
  bool takes = args->loaded->donates;
  for (std::size_t i = 0; i < options.num_non_donatable; ++i) {
    if (options.non_donatable[i] == 0) takes = false;
  }
  if (takes && source->own == nullptr) {
    std::fprintf(stderr, "fake_pjrt: a view was donated\n");
    std::abort();
  }
  const int now = ++in_flight;
  for (int most = most_in_flight; now > most && !most_in_flight.compare_exchange_weak(most, now);) {
  }
  args->outputs[0][0] = EnqueueCopy(source, [] { --in_flight; });
  if (args->complete != nullptr) args->complete[0] = Handle(args->outputs[0][0]->ready);
  if (takes) EndMemory(args->arguments[0][0]);
  return nullptr;
}

struct Table {
  Api api{};
  void* slots[static_cast<std::size_t>(Slot::kCount)] = {};

  template <Slot slot, typename Function>
  void Put(Function* function) {
    slots[static_cast<std::size_t>(slot)] = reinterpret_cast<void*>(function);
  }
};

Table* MakeTable() {
  static Table table;
  table.api.struct_size = sizeof(table);
  table.api.version = {sizeof(ApiVersion), nullptr, 0, 114};
  table.Put<Slot::kErrorDestroy>(ErrorDestroy);
  table.Put<Slot::kErrorMessage>(ErrorMessage);
  table.Put<Slot::kErrorGetCode>(ErrorGetCode);
  table.Put<Slot::kEventDestroy>(EventDestroy);
  table.Put<Slot::kEventOnReady>(EventOnReady);
  table.Put<Slot::kClientCreate>(ClientCreate);
  table.Put<Slot::kClientDestroy>(ClientDestroy);
  table.Put<Slot::kClientPlatformName>(ClientPlatformName);
  table.Put<Slot::kClientAddressableDevices>(ClientAddressableDevices);
  table.Put<Slot::kDeviceLocalHardwareId>(DeviceLocalHardwareId);
  table.Put<Slot::kDeviceDefaultMemory>(DeviceDefaultMemory);
  table.Put<Slot::kDeviceMemoryStats>(DeviceMemoryStats);
  table.Put<Slot::kClientBufferFromHostBuffer>(BufferFromHostBuffer);
  table.Put<Slot::kClientCreateViewOfDeviceBuffer>(CreateView);
  table.Put<Slot::kClientCreateAliasBuffer>(CreateAlias);
  table.Put<Slot::kClientFulfillAliasBuffer>(FulfillAlias);
  table.Put<Slot::kClientCreateBuffersForAsyncHostToDevice>(CreateBuffersForAsync);
  table.Put<Slot::kAsyncHostToDeviceTransferManagerTransferData>(TransferData);
  table.Put<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer>(RetrieveBuffer);
  table.Put<Slot::kAsyncHostToDeviceTransferManagerDestroy>(DestroyManager);
  table.Put<Slot::kBufferDestroy>(BufferDestroy);
  table.Put<Slot::kBufferDelete>(BufferDelete);
  table.Put<Slot::kBufferOnDeviceSizeInBytes>(BufferOnDeviceSizeInBytes);
  table.Put<Slot::kBufferMemory>(BufferMemory);
  table.Put<Slot::kBufferReadyEvent>(BufferReadyEvent);
  table.Put<Slot::kBufferToHostBuffer>(ToHostBuffer);
  table.Put<Slot::kBufferCopyRawToHost>(CopyRawToHost);
  table.Put<Slot::kBufferCopyRawToHostFuture>(CopyRawToHostFuture);
  table.Put<Slot::kBufferCopyToDevice>(CopyToDevice);
  table.Put<Slot::kBufferCopyToMemory>(CopyToMemory);
  table.Put<Slot::kClientCompile>(ClientCompile);
  table.Put<Slot::kLoadedExecutableDestroy>(LoadedExecutableDestroy);
  table.Put<Slot::kLoadedExecutableAddressableDevices>(AddressableDevices);
  table.Put<Slot::kLoadedExecutableGetExecutable>(GetExecutable);
  table.Put<Slot::kExecutableDestroy>(ExecutableDestroy);
  table.Put<Slot::kExecutableNumOutputs>(NumOutputs);
  table.Put<Slot::kExecutableGetCompiledMemoryStats>(CompiledMemoryStats);
  table.Put<Slot::kExecutableOptimizedProgram>(OptimizedProgram);
  table.Put<Slot::kLoadedExecutableExecute>(Execute);
  return &table;
}

}  // namespace
}  // namespace missile::pjrt

extern "C" const missile::pjrt::Api* GetPjrtApi() {
  static const missile::pjrt::Api* const kApi = &missile::pjrt::MakeTable()->api;
  return kApi;
}

extern "C" int FakeMostInFlight() { return missile::pjrt::most_in_flight; }

// Launches and copies begin no work while it is paused.
extern "C" void FakePause(bool paused) { missile::pjrt::TheWorker().Pause(paused); }

extern "C" const std::byte* FakeBytes(const missile::pjrt::Buffer* buffer) { return buffer->data; }
