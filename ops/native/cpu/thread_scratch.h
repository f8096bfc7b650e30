// Memory that a task needs while it runs. It belongs to the thread and stays with it, so that one
// task finds it in the cache where the one before has left it.
#pragma once

#include <cstddef>

namespace mnq {

// At least `bytes` bytes, aligned to 64, of no defined content; valid until the thread's next call.
char* thread_scratch(size_t bytes);

}  // namespace mnq
