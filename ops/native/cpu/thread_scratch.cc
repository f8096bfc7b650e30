#include "ops/native/cpu/thread_scratch.h"

#include "ops/native/cpu/buffer.h"

namespace mnq {

char* thread_scratch(size_t bytes) {
  thread_local Buffer<char> buffer;
  thread_local size_t size = 0;
  if (size < bytes) {
    size = 0;
    buffer = Buffer<char>(static_cast<int64_t>(bytes));
    size = bytes;
  }
  return buffer.data();
}

}  // namespace mnq
