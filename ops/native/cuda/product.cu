// A block makes a tile of 64 x 64: four warps of 32 x 32 each, in steps of 64 along k. While a step
// is multiplied, the next one is on its way from memory to registers.
#include "ops/native/cuda/rescale.h"
#include "ops/native/cuda/rows.h"

namespace mnq {
namespace {

// y = clamp(rescale(a b + bias) [+ rescale(r]), lo, hi) for `batches` of `rows` rows, all of which
// count as one sequence of rows where operands broadcast.
struct ProductJob {
  const int8_t* a;  // (batches, rows, k)
  const int8_t* b;  // packed: (columns, k_padded), padded with zeros; else (batches, k, columns)
  int64_t batches, rows;
  int k, k_padded, columns;
  bool packed;
  const int32_t* bias;
  Places bias_places;
  Scale scale;
  Integers r;  // no data: no residual
  Scale residual_scale;
  Codes y;
};

constexpr int tile = 64;           // rows, columns and depth of a block's step
constexpr int stride = tile + 16;  // bytes of a row in shared memory: its banks do not collide
constexpr int threads = 128;
constexpr int pieces = tile * tile / 16 / threads;  // of 16 bytes, of each operand and thread
constexpr int row_tiles = 2, column_tiles = 4;      // of 16 x 8, of a warp

struct alignas(16) Piece {
  int8_t bytes[16];
};

// Piece i of this thread: its row of the tile, and its first column.
MNQ_DEVICE int piece_row(int i) { return (thread() + i * threads) / (tile / 16); }
MNQ_DEVICE int piece_column(int i) { return (thread() + i * threads) % (tile / 16) * 16; }

MNQ_DEVICE Piece load_a(const ProductJob& job, const int8_t* a, int64_t row, int k) {
  Piece piece = {};
  if (row >= job.rows) return piece;
  const int8_t* from = a + row * job.k + k;
  if (job.k % 16 == 0) {
    if (k < job.k) piece = *reinterpret_cast<const Piece*>(from);
  } else {
    for (int i = 0; i < 16 && k + i < job.k; ++i) piece.bytes[i] = from[i];
  }
  return piece;
}

MNQ_DEVICE Piece load_b(const ProductJob& job, const int8_t* b, int64_t column, int k) {
  if (job.packed) return *reinterpret_cast<const Piece*>(b + column * job.k_padded + k);
  Piece piece = {};
  if (column >= job.columns) return piece;
  for (int i = 0; i < 16 && k + i < job.k; ++i) {
    piece.bytes[i] = b[static_cast<int64_t>(k + i) * job.columns + column];
  }
  return piece;
}

MNQ_DEVICE uint32_t word(const int8_t* shared, int row, int column) {
  return *reinterpret_cast<const uint32_t*>(shared + row * stride + column);
}

// The products of one step, from shared memory.
MNQ_DEVICE void multiply_step(const int8_t* a, const int8_t* b,
                              int32_t (&sums)[row_tiles][column_tiles][4]) {
  const int first_row = warp() / 2 * 32, first_column = warp() % 2 * 32;
  const int group = lane() / 4, part = lane() % 4 * 4;
  for (int k = 0; k < tile; k += 32) {
    uint32_t left[row_tiles][4], right[column_tiles][2];
    for (int i = 0; i < row_tiles; ++i) {
      for (int r = 0; r < 4; ++r) {
        left[i][r] = word(a, first_row + i * 16 + group + r % 2 * 8, k + part + r / 2 * 16);
      }
    }
    for (int j = 0; j < column_tiles; ++j) {
      for (int r = 0; r < 2; ++r) {
        right[j][r] = word(b, first_column + j * 8 + group, k + part + r * 16);
      }
    }
    for (int i = 0; i < row_tiles; ++i) {
      for (int j = 0; j < column_tiles; ++j) multiply_add<false>(sums[i][j], left[i], right[j]);
    }
  }
}

// What follows the sum at (row, column) of a batch.
MNQ_DEVICE void finish(const ProductJob& job, int64_t row, int64_t column, int32_t sum) {
  const uint32_t bias = static_cast<uint32_t>(job.bias[place(job.bias_places, row, column)]);
  const auto z = static_cast<int32_t>(static_cast<uint32_t>(sum) + bias);  // wraps
  int64_t code = rescale_at(z, job.scale, row, column);
  const int64_t at = row * job.columns + column;
  if (job.r.data != nullptr) code += rescale_at(read(job.r, at), job.residual_scale, row, column);
  write(job.y, at, code);
}

MNQ_KERNEL product_kernel(ProductJob job) {
  auto* a_shared = reinterpret_cast<int8_t*>(shared_memory());
  int8_t* b_shared = a_shared + tile * stride;
  const int64_t first_column = block_x() * tile, first_row = block_y() * tile, batch = block_z();
  const int8_t* a = job.a + batch * job.rows * job.k;
  const int8_t* b = job.packed ? job.b : job.b + batch * job.k * job.columns;
  Piece a_next[pieces], b_next[pieces];
  const auto load = [&](int k) {
    for (int i = 0; i < pieces; ++i) {
      a_next[i] = load_a(job, a, first_row + piece_row(i), k + piece_column(i));
      b_next[i] = load_b(job, b, first_column + piece_row(i), k + piece_column(i));
    }
  };
  int32_t sums[row_tiles][column_tiles][4] = {};
  load(0);
  for (int k = 0; k < job.k; k += tile) {
    for (int i = 0; i < pieces; ++i) {
      const int at = piece_row(i) * stride + piece_column(i);
      *reinterpret_cast<Piece*>(a_shared + at) = a_next[i];
      *reinterpret_cast<Piece*>(b_shared + at) = b_next[i];
    }
    sync_block();
    if (k + tile < job.k) load(k + tile);
    multiply_step(a_shared, b_shared, sums);
    sync_block();
  }
  for (int i = 0; i < row_tiles; ++i) {
    for (int j = 0; j < column_tiles; ++j) {
      for (int r = 0; r < 4; ++r) {
        const int64_t row = first_row + warp() / 2 * 32 + i * 16 + lane() / 4 + r / 2 * 8;
        const int64_t column = first_column + warp() % 2 * 32 + j * 8 + lane() % 4 * 2 + r % 2;
        if (row < job.rows && column < job.columns) {
          finish(job, batch * job.rows + row, column, sums[i][j][r]);
        }
      }
    }
  }
}

// Weights (k, n) of a node as `packed` reads them: columns and depth padded to whole tiles.
DeviceArray<int8_t> packed_weights(const int8_t* w, int64_t k, int64_t n) {
  const int64_t k_padded = blocks_of(k, tile) * tile, n_padded = blocks_of(n, tile) * tile;
  std::vector<int8_t> packed(n_padded * k_padded);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) packed[j * k_padded + i] = w[i * n + j];
  }
  return DeviceArray<int8_t>(packed);
}

void multiply(const ProductJob& job, void* stream) {
  const size_t shared = 2 * tile * stride;
  const int64_t x = blocks_of(job.columns, tile), y = blocks_of(job.rows, tile);
  if (x * y * job.batches == 0) return;
  if (y > most_blocks || job.batches > most_blocks) {
    throw Refusal("inputs: expected at most " + std::to_string(most_blocks * tile) +
                  " rows and " + std::to_string(most_blocks) + " matrices, found " +
                  std::to_string(job.rows) + " and " + std::to_string(job.batches));
  }
  launch(product_kernel, {x, y, job.batches, threads, shared}, stream, job);
}

// Places of a vector of one number per column.
constexpr Places along_columns = {0, 1, {}, {}};

class DeviceLinear : public DeviceKernel {
 public:
  DeviceLinear(const Node& node, std::unique_ptr<Kernel> contract, bool residual)
      : DeviceKernel(std::move(contract)),
        residual_(residual),
        codes_(codes_of(node)),
        k_(node["w"].shape[0]),
        n_(node["w"].shape[1]),
        weights_(packed_weights(node["w"].as<int8_t>(), k_, n_)),
        bias_(node["bias"]),
        scale_(node, "m", "e") {
    if (residual) residual_scale_ = DeviceScale(node, "m_r", "e_r");
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const int64_t rows = count(inputs[0].shape) / k_;
    ProductJob job{};
    job.a = inputs[0].as<int8_t>();
    job.b = weights_.data();
    job.batches = 1;
    job.rows = rows;
    job.k = static_cast<int>(k_);
    job.k_padded = static_cast<int>(blocks_of(k_, tile) * tile);
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
    multiply(job, context.stream());
  }

 private:
  bool residual_;
  Codes codes_;
  int64_t k_, n_;
  DeviceArray<int8_t> weights_;
  DeviceArray<int32_t> bias_;
  DeviceScale scale_, residual_scale_;
};

class DeviceMatMul : public DeviceKernel {
 public:
  DeviceMatMul(const Node& node, std::unique_ptr<Kernel> contract)
      : DeviceKernel(std::move(contract)),
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
    multiply(job, context.stream());
  }

 private:
  Codes codes_;
  Shape bias_shape_;
  DeviceArray<int32_t> bias_;
  DeviceScale scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_device_qlinear(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLinear>(node, std::move(contract), false);
}

std::unique_ptr<Kernel> make_device_qlinear_add(const Node& node,
                                                std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceLinear>(node, std::move(contract), true);
}

std::unique_ptr<Kernel> make_device_qmatmul(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceMatMul>(node, std::move(contract));
}

}  // namespace mnq
