// A PJRT plugin without a device, for the sanitizers: its programs copy their first argument, on a
// thread of its own, some time after they were launched. As on a GPU, a view's end is told when its
// handle is ended, also while launches that read it are still to run; a view that is donated ends
// the process. One device, "cpu", one memory.
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
  std::vector<std::pair<void (*)(Error*, void*), void*>> callbacks;
};

struct Buffer {
  std::shared_ptr<std::vector<std::byte>> own;  // Null for a view.
  std::byte* data = nullptr;
  std::size_t size_bytes = 0;
  void (*on_delete)(void*, void*) = nullptr;
  void* on_delete_user = nullptr;
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

void SetReady(const Held& event) {
  std::vector<std::pair<void (*)(Error*, void*), void*>> callbacks;
  {
    std::lock_guard lock(event->mutex);
    event->ready = true;
    callbacks.swap(event->callbacks);
  }
  for (auto& [callback, user] : callbacks) callback(nullptr, user);
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

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ended_ || !tasks_.empty(); });
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
  args->callback(nullptr, args->user);
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

// Dense bytes, of which only uploads that can not be placed come here.
Error* BufferFromHostBuffer(Arguments<Slot::kClientBufferFromHostBuffer>* args) {
  std::size_t bytes = 4;
  for (std::size_t i = 0; i < args->num_dims; ++i) {
    bytes *= static_cast<std::size_t>(args->dims[i]);
  }
  const auto* data = static_cast<const std::byte*>(args->data);
  auto own = std::make_shared<std::vector<std::byte>>(data, data + bytes);
  args->buffer = new Buffer{own, own->data(), bytes};
  auto done = std::make_shared<Event>();
  done->ready = true;
  args->done_with_host_buffer = Handle(done);
  return nullptr;
}

Error* CreateView(Arguments<Slot::kClientCreateViewOfDeviceBuffer>* args) {
  std::size_t bytes = 4;
  for (std::size_t i = 0; i < args->num_dims; ++i) {
    bytes *= static_cast<std::size_t>(args->dims[i]);
  }
  args->buffer = new Buffer{nullptr, static_cast<std::byte*>(args->data), bytes, args->on_delete,
                            args->on_delete_user};
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
  auto ready = std::make_shared<Event>();
  ready->ready = true;
  args->event = Handle(ready);
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
  if (source->own == nullptr && source->on_delete == nullptr) return new Error{"deleted"};
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
  auto own = std::make_shared<std::vector<std::byte>>(source->size_bytes);
  args->outputs[0][0] = new Buffer{own, own->data(), own->size()};
  auto complete = std::make_shared<Event>();
  if (args->complete != nullptr) args->complete[0] = Handle(complete);
  TheWorker().Enqueue([own, complete, keep = source->own, data = source->data] {
    std::memcpy(own->data(), data, own->size());
    --in_flight;
    SetReady(complete);
  });
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
  table.Put<Slot::kBufferDestroy>(BufferDestroy);
  table.Put<Slot::kBufferDelete>(BufferDelete);
  table.Put<Slot::kBufferOnDeviceSizeInBytes>(BufferOnDeviceSizeInBytes);
  table.Put<Slot::kBufferMemory>(BufferMemory);
  table.Put<Slot::kBufferReadyEvent>(BufferReadyEvent);
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

extern "C" const std::byte* FakeBytes(const missile::pjrt::Buffer* buffer) { return buffer->data; }
