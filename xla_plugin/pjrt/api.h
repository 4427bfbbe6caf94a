// What the wrapper knows of PJRT's C ABI: the table, and the arguments of the slots it has to do
// with. The rest passes through unseen. tests/plugin holds all of it against a published header.
//
// Fields are only ever added at a structure's end, and `struct_size` says how far the caller's
// goes. So what is declared here is the oldest part that serves, and a later field is read or
// written only after MISSILE_PJRT_HAS().
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "slots.h"

namespace missile::pjrt {

struct Extension {
  std::size_t struct_size;
  int type;
  Extension* next;
};

struct ApiVersion {
  std::size_t struct_size;
  Extension* extensions;
  int major;
  int minor;
};

// Slots follow, `struct_size` says how many.
struct Api {
  std::size_t struct_size;
  Extension* extensions;
  ApiVersion version;
};

enum class Slot : std::size_t {
#define MISSILE_PJRT_SLOT(name) k##name,
  MISSILE_PJRT_SLOTS(MISSILE_PJRT_SLOT)
#undef MISSILE_PJRT_SLOT
      kCount
};

struct Error;
struct Event;
struct Client;
struct Device;
struct Memory;
struct Buffer;
struct Executable;
struct LoadedExecutable;
struct TransferManager;
struct Fulfilment;

// The arguments of a slot: Arguments<Slot::kX>.
template <Slot slot>
struct Arguments;

// Whether a structure goes far enough to have a field.
#define MISSILE_PJRT_HAS(args, field)                                        \
  ((args)->struct_size >= offsetof(std::decay_t<decltype(*(args))>, field) + \
                              sizeof((args)->field))  // NOLINT(bugprone-macro-parentheses)

enum class Code : int {
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kUnimplemented = 12,
  kInternal = 13,
};

// Errors.

template <>
struct Arguments<Slot::kErrorDestroy> {
  std::size_t struct_size;
  Extension* extensions;
  Error* error;
};

template <>
struct Arguments<Slot::kErrorMessage> {
  std::size_t struct_size;
  Extension* extensions;
  const Error* error;
  const char* message;
  std::size_t message_size;
};

template <>
struct Arguments<Slot::kErrorGetCode> {
  std::size_t struct_size;
  Extension* extensions;
  const Error* error;
  int code;
};

template <>
struct Arguments<Slot::kErrorForEachPayload> {
  std::size_t struct_size;
  Extension* extensions;
  const Error* error;
};

// Events.

template <>
struct Arguments<Slot::kEventDestroy> {
  std::size_t struct_size;
  Extension* extensions;
  Event* event;
};

template <>
struct Arguments<Slot::kEventOnReady> {
  std::size_t struct_size;
  Extension* extensions;
  Event* event;
  void (*callback)(Error* error, void* user);
  void* user;
};

// The plugin and its clients.

template <>
struct Arguments<Slot::kPluginInitialize> {
  std::size_t struct_size;
  Extension* extensions;
};

enum class NamedValueType : int { kString = 0, kInt64, kInt64List, kFloat, kBool };

struct NamedValue {
  std::size_t struct_size;
  Extension* extensions;
  const char* name;
  std::size_t name_size;
  NamedValueType type;
  union {
    const char* string_value;
    std::int64_t int64_value;
    const std::int64_t* int64_list_value;
    float float_value;
    bool bool_value;
  };
  std::size_t value_size;
};

template <>
struct Arguments<Slot::kClientCreate> {
  std::size_t struct_size;
  Extension* extensions;
  const NamedValue* options;
  std::size_t num_options;
  void* kv_get_callback;
  void* kv_get_user;
  void* kv_put_callback;
  void* kv_put_user;
  Client* client;
};

template <>
struct Arguments<Slot::kClientDestroy> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
};

template <>
struct Arguments<Slot::kClientPlatformName> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  const char* name;
  std::size_t name_size;
};

template <>
struct Arguments<Slot::kClientAddressableDevices> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  Device* const* devices;
  std::size_t num_devices;
};

// Devices and their memories.

template <>
struct Arguments<Slot::kDeviceLocalHardwareId> {
  std::size_t struct_size;
  Extension* extensions;
  Device* device;
  int id;
};

template <>
struct Arguments<Slot::kDeviceDefaultMemory> {
  std::size_t struct_size;
  Extension* extensions;
  Device* device;
  Memory* memory;
};

struct Figure {
  std::int64_t value;
  bool is_set;
};

template <>
struct Arguments<Slot::kDeviceMemoryStats> {
  std::size_t struct_size;
  Extension* extensions;
  Device* device;
  std::int64_t bytes_in_use;
  Figure peak_bytes_in_use;
  Figure num_allocs;
  Figure largest_alloc_size;
  Figure bytes_limit;
  Figure bytes_reserved;
  Figure peak_bytes_reserved;
  Figure bytes_reservable_limit;
  Figure largest_free_block_bytes;
  Figure pool_bytes;
  Figure peak_pool_bytes;
};

template <>
struct Arguments<Slot::kDeviceClearMemoryStats> {
  std::size_t struct_size;
  Extension* extensions;
  Device* device;
};

// Buffers.

struct TiledLayout {
  std::size_t struct_size;
  Extension* extensions;
  const std::int64_t* minor_to_major;
  std::size_t num_dims;
  const std::int64_t* tile_dims;
  const std::size_t* tile_dim_sizes;
  std::size_t num_tiles;
};

struct StridesLayout {
  std::size_t struct_size;
  Extension* extensions;
  const std::int64_t* byte_strides;
  std::size_t num_dims;
};

enum class LayoutType : int { kTiled = 0, kStrides = 1 };

struct Layout {
  std::size_t struct_size;
  Extension* extensions;
  union {
    TiledLayout tiled;
    StridesLayout strides;
  };
  LayoutType type;
};

enum class Semantics : int {
  kImmutableOnlyDuringCall = 0,
  kImmutableUntilTransferCompletes,
  kImmutableZeroCopy,
  kMutableZeroCopy,
};

template <>
struct Arguments<Slot::kClientBufferFromHostBuffer> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  const void* data;
  int type;
  const std::int64_t* dims;
  std::size_t num_dims;
  const std::int64_t* byte_strides;  // Null: dense, the last dimension innermost.
  std::size_t num_byte_strides;
  Semantics semantics;
  Device* device;
  Memory* memory;  // Null: the device's default one.
  Layout* layout;  // Null: the device's default one.
  Event* done_with_host_buffer;
  Buffer* buffer;
};

template <>
struct Arguments<Slot::kClientCreateViewOfDeviceBuffer> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  void* data;
  const std::int64_t* dims;
  std::size_t num_dims;
  int type;
  Layout* layout;
  Device* device;
  void (*on_delete)(void* data, void* user);
  void* on_delete_user;
  std::intptr_t stream;
  Buffer* buffer;
  Memory* memory;
};

template <>
struct Arguments<Slot::kClientCreateUninitializedBuffer> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  const std::int64_t* dims;
  std::size_t num_dims;
  int type;
  Layout* layout;
  Device* device;
  Memory* memory;
  Buffer* buffer;
};

struct ShapeSpec {
  std::size_t struct_size;
  Extension* extensions;
  const std::int64_t* dims;
  std::size_t num_dims;
  int type;
};

template <>
struct Arguments<Slot::kClientCreateBuffersForAsyncHostToDevice> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  ShapeSpec* shapes;
  std::size_t num_shapes;
  Layout** layouts;
  std::size_t num_layouts;
  Memory* memory;
  TransferManager* manager;
};

// Passes through; what the tests call it with.
template <>
struct Arguments<Slot::kAsyncHostToDeviceTransferManagerTransferData> {
  std::size_t struct_size;
  Extension* extensions;
  TransferManager* manager;
  int index;
  const void* data;
  std::int64_t offset_bytes;
  std::int64_t size_bytes;
  bool last;
  Event* done;
};

template <>
struct Arguments<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer> {
  std::size_t struct_size;
  Extension* extensions;
  TransferManager* manager;
  int index;
  Buffer* buffer;
};

template <>
struct Arguments<Slot::kAsyncHostToDeviceTransferManagerDestroy> {
  std::size_t struct_size;
  Extension* extensions;
  TransferManager* manager;
};

template <>
struct Arguments<Slot::kClientCreateAliasBuffer> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  Memory* memory;
  const std::int64_t* dims;
  std::size_t num_dims;
  int type;
  Layout* layout;
  Buffer* alias;
  Fulfilment* fulfilment;  // Of this alias alone; ended by the call below.
};

template <>
struct Arguments<Slot::kClientFulfillAliasBuffer> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  Buffer* buffer;   // That the alias is to show.
  int status_code;  // 0, or why there is none.
  const char* message;
  std::size_t message_size;
  Fulfilment* fulfilment;
};

template <>
struct Arguments<Slot::kBufferDestroy> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
};

template <>
struct Arguments<Slot::kBufferDelete> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
};

template <>
struct Arguments<Slot::kBufferOnDeviceSizeInBytes> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  std::size_t size_bytes;
};

template <>
struct Arguments<Slot::kBufferReadyEvent> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  Event* event;
};

template <>
struct Arguments<Slot::kBufferMemory> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  Memory* memory;
};

template <>
struct Arguments<Slot::kBufferToHostBuffer> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  Layout* layout;
  void* data;  // Null: the caller asks for the size alone, and gets no event.
  std::size_t size_bytes;
  Event* done;
};

template <>
struct Arguments<Slot::kBufferCopyRawToHost> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  void* data;
  std::int64_t offset_bytes;
  std::int64_t size_bytes;
  Event* done;
};

// With what a caller tells later where the bytes are to go.
struct HostTarget {
  std::size_t struct_size;
  void* user;
  int error_code;
  const char* message;
  std::size_t message_size;
  void* data;
};

template <>
struct Arguments<Slot::kBufferCopyRawToHostFuture> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  std::int64_t offset_bytes;
  std::int64_t size_bytes;
  Event* done;
  void* user;
  void (*tell)(HostTarget* target);
};

template <>
struct Arguments<Slot::kBufferCopyToDevice> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  Device* device;
  Buffer* copy;
};

template <>
struct Arguments<Slot::kBufferCopyToMemory> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  Memory* memory;
  Buffer* copy;
};

template <>
struct Arguments<Slot::kBufferBitcast> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  int type;
  const std::int64_t* dims;
  std::size_t num_dims;
  Layout* layout;
  Buffer* out;
};

template <>
struct Arguments<Slot::kBufferDonateWithControlDependency> {
  std::size_t struct_size;
  Extension* extensions;
  Buffer* buffer;
  void* callback_data;
  void* dependency_ready_callback;
  Buffer* out;
};

// Programs and executables.

struct Program {
  std::size_t struct_size;
  Extension* extensions;
  char* code;
  std::size_t code_size;
  const char* format;
  std::size_t format_size;
};

template <>
struct Arguments<Slot::kClientCompile> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  const Program* program;
  const char* options;
  std::size_t options_size;
  LoadedExecutable* executable;
};

template <>
struct Arguments<Slot::kClientLoad> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  Executable* executable;
  const char* options;
  std::size_t options_size;
  LoadedExecutable* loaded;
};

template <>
struct Arguments<Slot::kExecutableDeserializeAndLoad> {
  std::size_t struct_size;
  Extension* extensions;
  Client* client;
  const char* serialized;
  std::size_t serialized_size;
  LoadedExecutable* loaded;
};

template <>
struct Arguments<Slot::kLoadedExecutableGetExecutable> {
  std::size_t struct_size;
  Extension* extensions;
  LoadedExecutable* loaded;
  Executable* executable;
};

template <>
struct Arguments<Slot::kLoadedExecutableAddressableDevices> {
  std::size_t struct_size;
  Extension* extensions;
  LoadedExecutable* loaded;
  Device* const* devices;
  std::size_t num_devices;
};

template <>
struct Arguments<Slot::kLoadedExecutableDestroy> {
  std::size_t struct_size;
  Extension* extensions;
  LoadedExecutable* loaded;
};

template <>
struct Arguments<Slot::kExecutableDestroy> {
  std::size_t struct_size;
  Extension* extensions;
  Executable* executable;
};

template <>
struct Arguments<Slot::kExecutableNumOutputs> {
  std::size_t struct_size;
  Extension* extensions;
  Executable* executable;
  std::size_t num_outputs;
};

template <>
struct Arguments<Slot::kExecutableOptimizedProgram> {
  std::size_t struct_size;
  Extension* extensions;
  Executable* executable;
  Program* program;
};

template <>
struct Arguments<Slot::kExecutableGetCompiledMemoryStats> {
  std::size_t struct_size;
  Extension* extensions;
  Executable* executable;
  std::int64_t code_bytes;
  std::int64_t argument_bytes;
  std::int64_t output_bytes;
  std::int64_t alias_bytes;
  std::int64_t temp_bytes;
};

struct ExecuteOptions {
  std::size_t struct_size;
  Extension* extensions;
  void* send_callbacks;
  void* recv_callbacks;
  std::size_t num_send_ops;
  std::size_t num_recv_ops;
  int launch_id;
  const std::int64_t* non_donatable;
  std::size_t num_non_donatable;
};

template <>
struct Arguments<Slot::kLoadedExecutableExecute> {
  std::size_t struct_size;
  Extension* extensions;
  LoadedExecutable* loaded;
  ExecuteOptions* options;
  Buffer* const* const* arguments;  // [device][argument]
  std::size_t num_devices;
  std::size_t num_arguments;
  Buffer** const* outputs;  // [device][output]
  Event** complete;         // [device], or null.
  Device* device;           // Null, or the one device of a portable executable.
};

}  // namespace missile::pjrt
