// Device code on the host, to test kernels where there is no GPU: every thread of a block is a
// fiber, and runs until a barrier that the others have not reached. Blocks run one by one.
//
// What a GPU would get wrong is wrong here: a barrier that some threads never reach ends the process,
// and copies into shared memory spoil where they go when they are started and arrive when they are
// waited for. Data races between barriers are not found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define MNQ_DEVICE static inline __attribute__((unused))
#define MNQ_KERNEL void
#define MNQ_KERNEL_OF(threads) void
#define MNQ_UNROLL

namespace mnq {

namespace emulated {

// Where the running thread is.
struct Here {
  int thread;
  int64_t block[3];
  char* shared;
};
extern thread_local Here here;

void wait_for_block();
void wait_for_warp();

constexpr size_t shown_bytes = 32;

// Shows at most shown_bytes of this lane to the warp, and waits for all lanes; what lane i showed is
// at the result + shown_bytes * i until the next call.
const char* exchange(const void* value, size_t bytes);

// What this thread has started, in groups; nothing of it is done before wait_for_groups().
enum class Engine { copies, products };
void do_later(Engine engine, std::function<void()> what);
void end_group(Engine engine);
void wait_for_groups(Engine engine, size_t but);

void copy_later(void* to, const void* from, bool zeros);

// Lets the other threads go on; again: this one has done nothing since the last time.
void poll(bool again);

// Ends the process.
[[noreturn]] void fail(const char* why);

constexpr unsigned shared_base = 16;  // the address of shared memory: aligned as on a GPU, no more
constexpr char spoiled = static_cast<char>(0xa5);  // what shared memory holds before it is written

// Calls body(user) on all threads of all blocks.
void run(const int64_t (&grid)[3], int threads, size_t shared, void (*body)(void*), void* user);

}  // namespace emulated

MNQ_DEVICE int thread() { return emulated::here.thread; }
MNQ_DEVICE int64_t block_x() { return emulated::here.block[0]; }
MNQ_DEVICE int64_t block_y() { return emulated::here.block[1]; }
MNQ_DEVICE int64_t block_z() { return emulated::here.block[2]; }
MNQ_DEVICE void sync_block() { emulated::wait_for_block(); }
MNQ_DEVICE void sync_warp() { emulated::wait_for_warp(); }
MNQ_DEVICE char* shared_memory() { return emulated::here.shared; }

template <class T>
MNQ_DEVICE T from_lane_xor(T value, int mask) {
  const char* shown = emulated::exchange(&value, sizeof value);
  T other;
  std::memcpy(&other, shown + emulated::shown_bytes * ((thread() % 32) ^ mask), sizeof other);
  return other;
}

MNQ_DEVICE void copy_later(void* shared, const void* from, bool zeros) {
  emulated::copy_later(shared, from, zeros);
}
MNQ_DEVICE void end_group() { emulated::end_group(emulated::Engine::copies); }
template <int but>
MNQ_DEVICE void wait_for_groups() {
  emulated::wait_for_groups(emulated::Engine::copies, but);
}
MNQ_DEVICE unsigned shared_address(const void* shared) {
  return emulated::shared_base +
         static_cast<unsigned>(static_cast<const char*>(shared) - emulated::here.shared);
}

MNQ_DEVICE void load_matrices(const void* row, uint32_t (&words)[4]) {
  const char* shown = emulated::exchange(&row, sizeof row);
  for (int i = 0; i < 4; ++i) {
    const char* from;
    std::memcpy(&from, shown + emulated::shown_bytes * (8 * i + thread() % 32 / 4), sizeof from);
    std::memcpy(&words[i], from + thread() % 4 * 4, sizeof words[i]);
  }
}

// The fragments of m16n8k32 (PTX ISA, "Matrix fragments for mma.m16n8k32"): of a, register r of lane
// l is row l / 4 + 8 (r % 2), columns 4 (l % 4) + 16 (r / 2) and three more; of b, register r is
// column l / 4, rows 4 (l % 4) + 16 r and three more; of c, register r is row l / 4 + 8 (r / 2),
// column 2 (l % 4) + r % 2.
template <bool unsigned_a>
MNQ_DEVICE void multiply_add(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const char* shown = emulated::exchange(mine, sizeof mine);
  const int lane = thread() % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    uint32_t sum = static_cast<uint32_t>(c[i]);
    for (int k = 0; k < 32; ++k) {
      const char* from_a = shown + emulated::shown_bytes * (row % 8 * 4 + k % 16 / 4);
      const char* from_b = shown + emulated::shown_bytes * (column * 4 + k % 16 / 4);
      const char byte = from_a[4 * (row / 8 + 2 * (k / 16)) + k % 4];
      const int left = unsigned_a ? static_cast<uint8_t>(byte) : static_cast<int8_t>(byte);
      const int right = static_cast<int8_t>(from_b[16 + 4 * (k / 16) + k % 4]);
      sum += static_cast<uint32_t>(left * right);
    }
    c[i] = static_cast<int32_t>(sum);
  }
}

}  // namespace mnq
