// hopper.h on the host (emulated.h). A box is copied when its bytes are waited for, and spoils where
// it goes when it is started; a product is computed when its group is waited for.
#pragma once

#include "ops/native/cuda/emulated.h"

namespace mnq {

struct BoxMap {
  const int8_t* data;
  int64_t rows, bytes;
  int box_rows;
};

using Barrier = uint64_t;

namespace emulated {

void make_barrier(Barrier* barrier);
void expect_bytes(Barrier* barrier, int bytes);
void wait_for_bytes(Barrier* barrier, int phase);
void copy_box(void* shared, const BoxMap& map, int row, int column, Barrier* barrier);
void start_product(int32_t (*c)[4], int columns, uint64_t a, uint64_t b);
void end_products();
void wait_for_products(size_t but);

}  // namespace emulated

MNQ_DEVICE void make_barrier(Barrier* barrier) { emulated::make_barrier(barrier); }
MNQ_DEVICE void barriers_are_made() {}
MNQ_DEVICE void expect_bytes(Barrier* barrier, int bytes) {
  emulated::expect_bytes(barrier, bytes);
}
MNQ_DEVICE void wait_for_bytes(Barrier* barrier, int phase) {
  emulated::wait_for_bytes(barrier, phase);
}
MNQ_DEVICE void copy_box(void* shared, const BoxMap& map, int row, int column, Barrier* barrier) {
  emulated::copy_box(shared, map, row, column, barrier);
}
MNQ_DEVICE void begin_products() {}
MNQ_DEVICE void end_products() { emulated::end_products(); }
template <int but>
MNQ_DEVICE void wait_for_products() {
  emulated::wait_for_products(but);
}
template <int tiles>
MNQ_DEVICE void start_product(int32_t (&c)[tiles][4], uint64_t a, uint64_t b) {
  emulated::start_product(c, tiles * 8, a, b);
}

}  // namespace mnq
