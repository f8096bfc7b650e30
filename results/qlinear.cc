// Times QLinear on one thread in turn with a loop that does nothing but multiply: qlinear.py builds
// and runs it. Prints a line of numbers per shape and path:
//   path rows inner outer  median seconds  fraction of the peak: median, 10th and 90th percentile
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ops/native/c_api.h"

namespace {

constexpr int rounds = 20000;
constexpr int64_t rows = 197;                                             // tokens of an image
constexpr int64_t shapes[][2] = {{384, 1152}, {384, 384}, {384, 1536}, {1536, 384}};  // of DeiT-S
constexpr int32_t int8 = 3, int32 = 6;                                    // ONNX's numbers

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Products of bytes per second that the vector unit can do: 24 independent vpdpbusd in a row.
double vnni_peak() {
  constexpr int loops = 4000;
  const double begin = now();
#define MNQ_PRODUCT(n) "vpdpbusd %%zmm31, %%zmm30, %%zmm" #n "\n"
  for (int i = 0; i < loops; ++i) {
    __asm__ volatile(
        MNQ_PRODUCT(0) MNQ_PRODUCT(1) MNQ_PRODUCT(2) MNQ_PRODUCT(3) MNQ_PRODUCT(4) MNQ_PRODUCT(5)
        MNQ_PRODUCT(6) MNQ_PRODUCT(7) MNQ_PRODUCT(8) MNQ_PRODUCT(9) MNQ_PRODUCT(10)
        MNQ_PRODUCT(11) MNQ_PRODUCT(12) MNQ_PRODUCT(13) MNQ_PRODUCT(14) MNQ_PRODUCT(15)
        MNQ_PRODUCT(16) MNQ_PRODUCT(17) MNQ_PRODUCT(18) MNQ_PRODUCT(19) MNQ_PRODUCT(20)
        MNQ_PRODUCT(21) MNQ_PRODUCT(22) MNQ_PRODUCT(23)
        ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
            "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",
            "xmm19", "xmm20", "xmm21", "xmm22", "xmm23");
  }
  return loops * 24.0 * 64.0 / (now() - begin);
}

template <class T>
std::vector<T> random_integers(int64_t size, int64_t lo, int64_t hi) {
  static std::mt19937 generator(0);
  std::uniform_int_distribution<int64_t> integer(lo, hi);
  std::vector<T> result(size);
  for (T& x : result) x = static_cast<T>(integer(generator));
  return result;
}

template <class T>
mnq_tensor tensor(const std::vector<T>& values, std::vector<int64_t> shape) {
  mnq_tensor result{values.data(), sizeof(T) == 1 ? int8 : int32,
                    static_cast<int32_t>(shape.size()), {}};
  std::copy(shape.begin(), shape.end(), result.shape);
  return result;
}

double quantile(std::vector<double>& values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * (values.size() - 1))];
}

// A layer on a path, with its inputs and what was measured.
class Layer {
 public:
  Layer(const std::string& path, int64_t inner, int64_t outer)
      : path_(path),
        inner_(inner),
        outer_(outer),
        x_(random_integers<int8_t>(rows * inner, -128, 127)),
        w_(random_integers<int8_t>(inner * outer, -127, 127)),
        bias_(random_integers<int32_t>(outer, -10000, 10000)),
        m_(random_integers<int32_t>(outer, 1 << 30, INT32_MAX)),
        e_(outer, 43),
        y_(rows * outer),
        inputs_{tensor(x_, {1, rows, inner}), tensor(w_, {inner, outer}), tensor(bias_, {outer}),
                tensor(m_, {outer}),          tensor(e_, {outer}),        tensor(lo_, {}),
                tensor(hi_, {})} {
    mnq_error error{};
    kernel_ = mnq_make("QLinear", inputs_.data(), int8, path.c_str(), &error);
    if (kernel_ == nullptr) {
      std::fprintf(stderr, "QLinear on %s: %s\n", path.c_str(), error.text);
      std::exit(1);
    }
  }

  void measure() {
    mnq_error error{};
    const double peak = vnni_peak(), begin = now();
    mnq_run(kernel_, inputs_.data(), y_.data(), 1, &error);
    const double time = now() - begin;
    seconds_.push_back(time);
    fractions_.push_back(static_cast<double>(rows * inner_ * outer_) / time / peak);
  }

  void print() {
    std::printf("%s %ld %ld %ld %.3e %.4f %.4f %.4f\n", path_.c_str(), static_cast<long>(rows),
                static_cast<long>(inner_), static_cast<long>(outer_), quantile(seconds_, 0.5),
                quantile(fractions_, 0.5), quantile(fractions_, 0.1), quantile(fractions_, 0.9));
  }

 private:
  std::string path_;
  int64_t inner_, outer_;
  std::vector<int8_t> x_, w_;
  std::vector<int32_t> bias_, m_, e_, lo_{-128}, hi_{127};
  std::vector<int8_t> y_;
  std::vector<mnq_tensor> inputs_;
  mnq_kernel* kernel_;  // lives as long as the program
  std::vector<double> seconds_, fractions_;
};

}  // namespace

int main() {
  std::vector<std::unique_ptr<Layer>> layers;
  std::istringstream paths(mnq_paths());
  for (std::string path; paths >> path;) {
    if (path != "avx512" && path != "amx") continue;
    for (const auto& shape : shapes) {
      layers.push_back(std::make_unique<Layer>(path, shape[0], shape[1]));
    }
  }
  // Round by round, so that a machine that gets slower is slower for all of them.
  for (int round = 0; round < rounds; ++round) {
    for (const auto& layer : layers) layer->measure();
  }
  for (const auto& layer : layers) layer->print();
}
