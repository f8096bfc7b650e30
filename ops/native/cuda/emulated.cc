#include "ops/native/cuda/emulated.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

namespace mnq::emulated {

thread_local Here here;

namespace {

constexpr size_t stack_bytes = 128 << 10;
constexpr int lanes = 32;

struct Barrier {
  int expected = 0, arrived = 0;
  uint64_t generation = 0;

  void release_if_complete() {
    if (arrived > 0 && arrived == expected) {
      arrived = 0;
      ++generation;
    }
  }
};

struct Warp {
  Barrier barrier;
  char shown[2][lanes * shown_bytes];  // of this exchange, and of the last one
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Barrier* waits = nullptr;
  uint64_t generation = 0;
  uint64_t exchanges = 0;
  bool done = false;
  bool stuck = false;  // it polls, and has done nothing since it did before
  std::deque<std::vector<std::function<void()>>> groups[2];  // by engine; the last is not ended yet
};

// One block at a time.
struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  ucontext_t scheduler;
  void (*body)(void*);
  void* user;
};
thread_local Block* block = nullptr;

Fiber& running() { return block->fibers[here.thread]; }
Warp& warp_of(int thread) { return block->warps[thread / lanes]; }

void wait(Barrier& barrier) {
  Fiber& fiber = running();
  fiber.waits = &barrier;
  fiber.generation = barrier.generation;
  ++barrier.arrived;
  barrier.release_if_complete();
  if (barrier.generation == fiber.generation) swapcontext(&fiber.context, &block->scheduler);
  fiber.waits = nullptr;
}

// A thread that has ended is not waited for.
void leave(Barrier& barrier) {
  --barrier.expected;
  barrier.release_if_complete();
}

void start() {
  block->body(block->user);
  running().done = true;
  leave(block->barrier);
  leave(warp_of(here.thread).barrier);
  swapcontext(&running().context, &block->scheduler);
}

void run_block(size_t shared_bytes) {
  const int threads = static_cast<int>(block->fibers.size());
  std::vector<char> memory(shared_bytes + 16, spoiled);  // never zero on a GPU
  char* shared = memory.data();
  shared += (16 - reinterpret_cast<uintptr_t>(shared) % 16) % 16;
  block->barrier = {threads, 0, 0};
  for (int first = 0; first < threads; first += lanes) {
    Warp& warp = warp_of(first);
    warp.barrier = {threads - first < lanes ? threads - first : lanes, 0, 0};
  }
  for (Fiber& fiber : block->fibers) {
    fiber.waits = nullptr;
    fiber.done = false;
    fiber.exchanges = 0;
    fiber.stuck = false;
    for (auto& groups : fiber.groups) groups.assign(1, {});
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
  }
  here.shared = shared;
  for (int left = threads; left > 0;) {
    bool moved = false;
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = block->fibers[i];
      if (fiber.done) continue;
      if (fiber.waits != nullptr && fiber.waits->generation == fiber.generation) continue;
      here.thread = i;
      swapcontext(&block->scheduler, &fiber.context);
      moved = moved || !fiber.stuck;
      left -= fiber.done;
    }
    if (!moved) fail("a barrier that some threads never reach");
  }
}

}  // namespace

void wait_for_block() { wait(block->barrier); }
void wait_for_warp() { wait(warp_of(here.thread).barrier); }

const char* exchange(const void* value, size_t bytes) {
  Warp& warp = warp_of(here.thread);
  char* shown = warp.shown[running().exchanges++ % 2];
  std::memcpy(shown + shown_bytes * (here.thread % lanes), value, bytes);
  wait_for_warp();
  return shown;
}

void do_later(Engine engine, std::function<void()> what) {
  running().groups[static_cast<int>(engine)].back().push_back(std::move(what));
}

void end_group(Engine engine) { running().groups[static_cast<int>(engine)].emplace_back(); }

void wait_for_groups(Engine engine, size_t but) {
  auto& groups = running().groups[static_cast<int>(engine)];
  for (; groups.size() - 1 > but; groups.pop_front()) {
    for (const auto& what : groups.front()) what();
  }
}

void copy_later(void* to, const void* from, bool zeros) {
  const auto odd = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 != 0; };
  if (odd(to) || (!zeros && odd(from))) fail("a copy of 16 bytes that is not aligned");
  std::memset(to, spoiled, 16);
  do_later(Engine::copies, [=] {
    if (zeros) {
      std::memset(to, 0, 16);
    } else {
      std::memcpy(to, from, 16);
    }
  });
}

void poll(bool again) {
  Fiber& fiber = running();
  fiber.stuck = again;
  swapcontext(&fiber.context, &block->scheduler);
  fiber.stuck = false;
}

void fail(const char* why) {
  std::fprintf(stderr, "emulated block: %s\n", why);
  std::abort();
}

void run(const int64_t (&grid)[3], int threads, size_t shared, void (*body)(void*), void* user) {
  Block own;
  own.fibers.resize(threads);
  own.warps.resize((threads + lanes - 1) / lanes);
  for (Fiber& fiber : own.fibers) fiber.stack.reset(new char[stack_bytes]);
  own.body = body;
  own.user = user;
  block = &own;
  for (here.block[2] = 0; here.block[2] < grid[2]; ++here.block[2]) {
    for (here.block[1] = 0; here.block[1] < grid[1]; ++here.block[1]) {
      for (here.block[0] = 0; here.block[0] < grid[0]; ++here.block[0]) run_block(shared);
    }
  }
  block = nullptr;
}

}  // namespace mnq::emulated
