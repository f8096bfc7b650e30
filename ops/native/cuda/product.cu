// A block makes a tile of the product, a warp a part of it, in steps along k. Copies of the next steps
// are on their way into shared memory while one is multiplied.
#include "ops/native/cuda/hopper.h"
#include "ops/native/cuda/product_hopper.h"

namespace mnq {
namespace {

constexpr int depth = 64;           // of a step
constexpr int stride = depth + 16;  // bytes of a row in shared memory: its banks do not collide

template <int rows_, int columns_, int row_warps_, int column_warps_, int stages_>
struct Tile : ProductTile<rows_, columns_, row_warps_, column_warps_> {
  using Base = ProductTile<rows_, columns_, row_warps_, column_warps_>;
  static constexpr int stages = stages_;
  static constexpr int stage_bytes = (rows_ + columns_) * stride;
  static constexpr size_t shared = stages * stage_bytes > Base::sums_bytes
                                       ? stages * stage_bytes
                                       : Base::sums_bytes;
};
using Large = Tile<128, 128, 2, 4, 3>;
using Medium = Tile<64, 64, 2, 2, 4>;
using Small = Tile<32, 32, 2, 2, 4>;

// Bytes [k, k + 16) of a row of `a`, where that is not whole pieces.
MNQ_DEVICE Bytes read_a(const ProductJob& job, const int8_t* a, int64_t row, int k) {
  Bytes bytes = {};
  for (int i = 0; row < job.rows && i < piece && k + i < job.k; ++i) {
    bytes.of[i] = a[row * job.k + k + i];
  }
  return bytes;
}

MNQ_DEVICE Bytes read_b(const ProductJob& job, const int8_t* b, int64_t column, int k) {
  Bytes bytes = {};
  for (int i = 0; column < job.columns && i < piece && k + i < job.k; ++i) {
    bytes.of[i] = b[static_cast<int64_t>(k + i) * job.columns + column];
  }
  return bytes;
}

// Step k of both operands into `shared`, where it is after a wait for the group and a barrier.
// whole: rows of `a` are whole pieces, and `b` is packed.
template <class T, bool whole>
MNQ_DEVICE void load_step(const ProductJob& job, const int8_t* a, const int8_t* b,
                          int64_t first_row, int64_t first_column, int k, int8_t* shared) {
  constexpr int pieces = depth / piece;  // of a row
  MNQ_UNROLL
  for (int i = thread(); i < T::rows * pieces; i += T::threads) {
    const int64_t row = first_row + i / pieces;
    const int from = k + i % pieces * piece;
    int8_t* to = shared + i / pieces * stride + i % pieces * piece;
    if (whole) {
      const bool inside = row < job.rows && from < job.k;
      copy_later(to, inside ? a + row * job.k + from : a, !inside);
    } else {
      *reinterpret_cast<Bytes*>(to) = read_a(job, a, row, from);
    }
  }
  shared += T::rows * stride;
  MNQ_UNROLL
  for (int i = thread(); i < T::columns * pieces; i += T::threads) {
    const int64_t column = first_column + i / pieces;
    const int from = k + i % pieces * piece;
    int8_t* to = shared + i / pieces * stride + i % pieces * piece;
    if (job.packed) {
      copy_later(to, b + column * job.k_padded + from, false);
    } else {
      *reinterpret_cast<Bytes*>(to) = read_b(job, b, column, from);
    }
  }
}

// This warp's products of one step.
template <class T>
MNQ_DEVICE void multiply_step(const int8_t* shared, Sums<T>& sums) {
  const int8_t* a = shared + warp() / T::column_warps * T::warp_rows * stride;
  const int8_t* b = shared + (T::rows + warp() % T::column_warps * T::warp_columns) * stride;
  const int within = lane() % 8;
  a += (within + lane() / 8 % 2 * 8) * stride + lane() / 16 * 16;
  b += (within + lane() / 16 * 8) * stride + lane() / 8 % 2 * 16;
  MNQ_UNROLL
  for (int k = 0; k < depth; k += 32) {
    uint32_t left[T::row_tiles][4], right[T::column_tiles / 2][4];
    MNQ_UNROLL
    for (int i = 0; i < T::row_tiles; ++i) load_matrices(a + i * 16 * stride + k, left[i]);
    MNQ_UNROLL
    for (int j = 0; j < T::column_tiles / 2; ++j) load_matrices(b + j * 16 * stride + k, right[j]);
    MNQ_UNROLL
    for (int i = 0; i < T::row_tiles; ++i) {
      MNQ_UNROLL
      for (int j = 0; j < T::column_tiles; ++j) {
        const uint32_t(&pair)[4] = right[j / 2];
        const uint32_t own[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
        multiply_add<false>(sums[i][j], left[i], own);
      }
    }
  }
}

// whole: as is_whole says.
template <class T, bool whole>
MNQ_KERNEL_OF(T::threads) product_kernel(ProductJob job) {
  auto* shared = reinterpret_cast<int8_t*>(shared_memory());
  const int64_t first_column = block_x() * T::columns, first_row = block_y() * T::rows;
  const int8_t* a = job.a + block_z() * job.rows * job.k;
  const int8_t* b = job.packed ? job.b : job.b + block_z() * job.k * job.columns;
  const int steps = (job.k + depth - 1) / depth;
  const auto load = [&](int step) {
    if (step < steps) {
      int8_t* to = shared + step % T::stages * T::stage_bytes;
      load_step<T, whole>(job, a, b, first_row, first_column, step * depth, to);
    }
    end_group();  // one for every step, also behind the last, so that waits count alike
  };
  auto* table = shared + T::shared;  // everybody's after the last barrier
  for (int i = thread(); job.table != nullptr && i < table_size; i += T::threads) {
    table[i] = job.table[i];
  }
  Sums<T> sums = {};
  for (int step = 0; step < T::stages - 1; ++step) load(step);
  for (int step = 0; step < steps; ++step) {
    wait_for_groups<T::stages - 2>();
    sync_block();  // the step is here for all, and nobody reads the one before any more
    load(step + T::stages - 1);
    multiply_step<T>(shared + step % T::stages * T::stage_bytes, sums);
  }
  sync_block();
  auto* exchanged = reinterpret_cast<int32_t*>(shared);
  finish_tile<T, whole>(job, sums, first_row, first_column, exchanged, table);
}

// Weights (k, n) of a node as `packed` reads them: columns and depth padded to whole tiles.
DeviceArray<int8_t> packed_weights(const int8_t* w, int64_t k, int64_t n) {
  const int64_t k_padded = blocks_of(k, depth) * depth;
  const int64_t n_padded = blocks_of(n, Large::columns) * Large::columns;
  std::vector<int8_t> packed(n_padded * k_padded);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) packed[j * k_padded + i] = w[i * n + j];
  }
  return DeviceArray<int8_t>(packed);
}

template <class T>
void multiply_in(const ProductJob& job, bool whole, void* stream) {
  const int64_t x = blocks_of(job.columns, T::columns), y = blocks_of(job.rows, T::rows);
  if (y > most_blocks || job.batches > most_blocks) {
    throw Refusal("inputs: expected at most " + std::to_string(most_blocks * T::rows) +
                  " rows and " + std::to_string(most_blocks) + " matrices, found " +
                  std::to_string(job.rows) + " and " + std::to_string(job.batches));
  }
  const auto kernel = whole ? product_kernel<T, true> : product_kernel<T, false>;
  const size_t shared = T::shared + (job.table != nullptr ? table_size : 0);
  launch(kernel, {x, y, job.batches, T::threads, shared}, stream, job);
}

// In the largest tiles that leave no processor without one.
void multiply(const ProductJob& job, int processors, void* stream) {
  if (blocks_of_tiles<Small>(job) == 0) return;
  const bool whole = is_whole(job);
  if (blocks_of_tiles<Large>(job) >= processors) {
    multiply_in<Large>(job, whole, stream);
  } else if (blocks_of_tiles<Medium>(job) >= processors) {
    multiply_in<Medium>(job, whole, stream);
  } else {
    multiply_in<Small>(job, whole, stream);
  }
}

// Products on the current device, which is made ready for them.
class DeviceProduct : public DeviceKernel {
 public:
  explicit DeviceProduct(std::unique_ptr<Kernel> contract)
      : DeviceKernel(std::move(contract)),
        processors_(device::processors()),
        warp_groups_(wants_warp_groups()) {
    allow<Large>();
    allow<Medium>();
    allow<Small>();
    if (warp_groups_) allow_hopper_products();
  }

 protected:
  void start(const ProductJob& job, void* stream) const {
    if (warp_groups_ && multiply_on_hopper(job, processors_, stream)) return;
    multiply(job, processors_, stream);
  }

 private:
  template <class T>
  static void allow() {
    allow_shared(product_kernel<T, true>, T::shared + table_size);
    allow_shared(product_kernel<T, false>, T::shared + table_size);
  }

  int processors_;
  bool warp_groups_;
};

// Places of a vector of one number per column.
constexpr Places along_columns = {0, 1, {}, {}};

// What follows a layer's sums and their requantization.
enum class After { nothing, residual, table };

class DeviceLinear : public DeviceProduct {
 public:
  DeviceLinear(const Node& node, std::unique_ptr<Kernel> contract, After after)
      : DeviceProduct(std::move(contract)),
        residual_(after == After::residual),
        codes_(codes_of(node)),
        k_(node["w"].shape[0]),
        n_(node["w"].shape[1]),
        weights_(packed_weights(node["w"].as<int8_t>(), k_, n_)),
        bias_(node["bias"]),
        scale_(node, "m", "e") {
    if (residual_) residual_scale_ = DeviceScale(node, "m_r", "e_r");
    if (after == After::table) table_ = DeviceArray<int8_t>(node["table"]);
    if (count(node["lo"].shape) > 1) {
      lo_ = DeviceArray<int32_t>(node["lo"]);
      hi_ = DeviceArray<int32_t>(node["hi"]);
    }
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const int64_t rows = count(inputs[0].shape) / k_;
    ProductJob job{};
    job.a = inputs[0].as<int8_t>();
    job.b = weights_.data();
    job.batches = 1;
    job.rows = rows;
    job.k = static_cast<int>(k_);
    job.k_padded = static_cast<int>(blocks_of(k_, depth) * depth);
    job.columns = static_cast<int>(n_);
    job.packed = true;
    job.bias = bias_.data();
    job.bias_places = along_columns;
    job.scale = scale_.of({rows, n_});
    if (residual_) {
      job.r = {inputs[1].data, inputs[1].type};
      job.residual_scale = residual_scale_.of({rows, n_});
    }
    job.y = at(codes_, output);
    job.lo = lo_.data();
    job.hi = hi_.data();
    job.table = table_.data();
    start(job, context.stream());
  }

 private:
  bool residual_;
  Codes codes_;
  int64_t k_, n_;
  DeviceArray<int8_t> weights_, table_;
  DeviceArray<int32_t> bias_, lo_, hi_;
  DeviceScale scale_, residual_scale_;
};

class DeviceMatMul : public DeviceProduct {
 public:
  DeviceMatMul(const Node& node, std::unique_ptr<Kernel> contract)
      : DeviceProduct(std::move(contract)),
        codes_(codes_of(node)),
        bias_shape_(node["bias"].shape),
        bias_(node.constant("bias", Type::int32)),
        scale_(node, "m", "e") {}

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape &a = inputs[0].shape, &b = inputs[1].shape;
    Shape shape = a;
    shape.back() = b.back();
    ProductJob job{};
    job.a = inputs[0].as<int8_t>();
    job.b = inputs[1].as<int8_t>();
    job.rows = a[a.size() - 2];
    job.k = static_cast<int>(a.back());
    job.columns = static_cast<int>(b.back());
    job.batches = count(shape) / (job.rows * job.columns);
    job.bias = bias_.data();
    job.bias_places = places_of(RowBroadcast("bias", bias_shape_, shape));
    job.scale = scale_.of(shape);
    job.y = at(codes_, output);
    start(job, context.stream());
  }

 private:
  Codes codes_;
  Shape bias_shape_;
  DeviceArray<int32_t> bias_;
  DeviceScale scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_device_qlinear(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLinear>(node, std::move(contract), After::nothing);
}

std::unique_ptr<Kernel> make_device_qlinear_add(const Node& node,
                                                std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLinear>(node, std::move(contract), After::residual);
}

std::unique_ptr<Kernel> make_device_qlinear_lut(const Node& node,
                                                std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLinear>(node, std::move(contract), After::table);
}

std::unique_ptr<Kernel> make_device_qmatmul(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceMatMul>(node, std::move(contract));
}

}  // namespace mnq
