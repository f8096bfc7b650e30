#include "ops/native/cuda/hopper.h"

#include <map>
#include <vector>

namespace mnq::emulated {
namespace {

constexpr Barrier made = 0x62617272696572;  // what a barrier holds that was made

struct Box {
  char* to;
  BoxMap map;
  int row, column;
};

// A barrier's present phase.
struct Phase {
  int ended = 0;           // before it, modulo 2
  bool expects = false;    // bytes, which one thread has announced
  int64_t bytes = 0;       // announced and not here yet; negative if they came unannounced
  std::vector<Box> boxes;  // on their way
};
thread_local std::map<Barrier*, Phase> phases;

Phase& phase_of(Barrier* barrier) {
  if (*barrier != made) fail("a barrier for bytes that was not made");
  return phases[barrier];
}

// Where the copy engine puts the byte at `address`: pieces of 16 bytes change places by the row.
uint64_t swizzled(uint64_t address) { return address ^ (address >> 7 & 7) << 4; }

char* at_address(uint64_t address) { return here.shared + (address - shared_base); }

int64_t bytes_of(const Box& box) { return static_cast<int64_t>(box.map.box_rows) * box_bytes; }

void bring(const Box& box) {
  const uint64_t first = shared_address(box.to);
  for (int i = 0; i < box.map.box_rows; ++i) {
    for (int j = 0; j < box_bytes; ++j) {
      const int64_t row = box.row + i, column = box.column + j;
      const bool inside = row < box.map.rows && column < box.map.bytes;
      *at_address(swizzled(first + i * box_bytes + j)) =
          inside ? static_cast<char>(box.map.data[row * box.map.bytes + column]) : char{0};
    }
  }
}

// The code at (row, k) of a matrix as matrix_at names it.
int code_at(uint64_t matrix, int row, int k) {
  if (matrix >> 62 != 1) fail("a matrix without the swizzle of boxes");
  const uint64_t first = (matrix & 0x3fff) << 4, eight_rows = (matrix >> 32 & 0x3fff) << 4;
  const uint64_t address = first + row / 8 * eight_rows + row % 8 * box_bytes + k;
  return static_cast<int8_t>(*at_address(swizzled(address)));
}

}  // namespace

void make_barrier(Barrier* barrier) {
  *barrier = made;
  phases[barrier] = Phase{};
}

void expect_bytes(Barrier* barrier, int bytes) {
  Phase& phase = phase_of(barrier);
  if (phase.expects) fail("bytes that are expected twice in a phase");
  phase.expects = true;
  phase.bytes += bytes;
}

void copy_box(void* shared, const BoxMap& map, int row, int column, Barrier* barrier) {
  const Box box{static_cast<char*>(shared), map, row, column};
  if (shared_address(shared) % box_alignment != 0) fail("a box that is not aligned");
  std::memset(shared, spoiled, bytes_of(box));
  phase_of(barrier).boxes.push_back(box);
}

void wait_for_bytes(Barrier* barrier, int parity) {
  for (bool again = false; phase_of(barrier).ended == parity; again = true) {
    Phase& phase = phase_of(barrier);
    for (const Box& box : phase.boxes) {
      bring(box);
      phase.bytes -= bytes_of(box);
    }
    phase.boxes.clear();
    if (phase.expects && phase.bytes == 0) {
      phase.expects = false;
      phase.ended ^= 1;
    } else {
      poll(again);
    }
  }
}

void start_product(int32_t (*c)[4], int columns, uint64_t a, uint64_t b) {
  const int lane = thread() % 32, warp = thread() / 32 % group_warps;
  do_later(Engine::products, [=] {
    for (int i = 0; i < columns / 2; ++i) {
      const int row = 16 * warp + lane / 4 + 8 * (i % 4 / 2);
      const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      uint32_t sum = static_cast<uint32_t>(c[i / 4][i % 4]);
      for (int k = 0; k < product_codes; ++k) {
        sum += static_cast<uint32_t>(code_at(a, row, k) * code_at(b, column, k));
      }
      c[i / 4][i % 4] = static_cast<int32_t>(sum);
    }
  });
}

void end_products() { end_group(Engine::products); }
void wait_for_products(size_t but) { wait_for_groups(Engine::products, but); }

}  // namespace mnq::emulated
