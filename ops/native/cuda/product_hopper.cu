// A block makes a tile of the product, a warp group 64 rows of it, in steps along k. The copy engine
// brings the next steps into shared memory while the tensor cores read one, and they read it while the
// warps wait for the next.
#include "ops/native/cuda/product_hopper.h"

#include "ops/native/cuda/hopper.h"

namespace mnq {
namespace {

template <int rows_, int columns_, int stages_>
struct GroupTile : ProductTile<rows_, columns_, rows_ / 16, 1> {
  using Base = ProductTile<rows_, columns_, rows_ / 16, 1>;
  static constexpr int stages = stages_;
  static constexpr int stage_bytes = (rows_ + columns_) * box_bytes;
  static constexpr int table_at = stages * stage_bytes;
  static constexpr int barriers_at = table_at + table_size;
  static constexpr size_t shared =
      box_alignment + barriers_at + stages * static_cast<int>(sizeof(uint64_t));
  static_assert(Base::sums_bytes <= table_at, "sums go where the steps were");
  static_assert(rows_ % group_rows == 0 && columns_ % 8 == 0, "a box is whole groups of 8 rows");
};
using Large = GroupTile<128, 128, 3>;  // two blocks of it fit on a processor
using Medium = GroupTile<64, 64, 3>;

template <class T>
MNQ_KERNEL_OF(T::threads)
hopper_product_kernel(const MNQ_CONSTANT ProductJob job, const MNQ_CONSTANT BoxMap a,
                      const MNQ_CONSTANT BoxMap b) {
#if MNQ_HOPPER
  char* shared = shared_memory();
  shared += (box_alignment - shared_address(shared) % box_alignment) % box_alignment;
  auto* barriers = reinterpret_cast<Barrier*>(shared + T::barriers_at);
  auto* table = reinterpret_cast<int8_t*>(shared + T::table_at);
  const int64_t first_column = block_x() * T::columns, first_row = block_y() * T::rows;
  const int steps = (job.k + box_bytes - 1) / box_bytes;
  const auto load = [&](int step) {
    if (thread() != 0 || step >= steps) return;
    char* to = shared + step % T::stages * T::stage_bytes;
    Barrier* arrived = barriers + step % T::stages;
    expect_bytes(arrived, T::stage_bytes);
    copy_box(to, a, static_cast<int>(first_row), step * box_bytes, arrived);
    copy_box(to + T::rows * box_bytes, b, static_cast<int>(first_column), step * box_bytes,
             arrived);
  };
  if (thread() == 0) {
    for (int i = 0; i < T::stages; ++i) make_barrier(barriers + i);
    barriers_are_made();
  }
  for (int i = thread(); job.table != nullptr && i < table_size; i += T::threads) {
    table[i] = job.table[i];
  }
  sync_block();
  for (int step = 0; step < T::stages - 1; ++step) load(step);
  Sums<T> sums = {};
  for (int step = 0; step < steps; ++step) {
    const char* from = shared + step % T::stages * T::stage_bytes;
    wait_for_bytes(barriers + step % T::stages, step / T::stages % 2);
    begin_products();
    MNQ_UNROLL
    for (int k = 0; k < box_bytes; k += product_codes) {
      const char* rows = from + warp() / group_warps * group_rows * box_bytes + k;
      start_product(sums[0], matrix_at(rows), matrix_at(from + T::rows * box_bytes + k));
    }
    end_products();
    wait_for_products<1>();
    sync_block();  // nobody reads the step before any more
    load(step + T::stages - 1);
  }
  wait_for_products<0>();
  sync_block();
  finish_tile<T, true>(job, sums, first_row, first_column, reinterpret_cast<int32_t*>(shared),
                       table);
#endif
}

template <class T>
void multiply_in(const ProductJob& job, void* stream) {
  const Launch where = {blocks_of(job.columns, T::columns), blocks_of(job.rows, T::rows), 1,
                        T::threads, T::shared};
  const BoxMap a = box_map(job.a, job.rows, job.k, T::rows);
  const BoxMap b = box_map(job.b, job.columns, job.k_padded, T::columns);
  launch(hopper_product_kernel<T>, where, stream, job, a, b);
}

}  // namespace

void allow_hopper_products() {
  allow_shared(hopper_product_kernel<Large>, Large::shared);
  allow_shared(hopper_product_kernel<Medium>, Medium::shared);
}

bool multiply_on_hopper(const ProductJob& job, int processors, void* stream) {
  if (!is_whole(job) || blocks_of(job.rows, Medium::rows) > most_blocks) return false;
  if (blocks_of_tiles<Large>(job) >= processors) {
    multiply_in<Large>(job, stream);
  } else if (blocks_of_tiles<Medium>(job) >= processors) {
    multiply_in<Medium>(job, stream);
  } else {
    return false;
  }
  return true;
}

}  // namespace mnq
