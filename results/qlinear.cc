// Times QLinear on one thread in turn with a loop that does nothing but multiply: qlinear.py builds
// and runs it. Prints a line of numbers per shape and path:
//   path rows inner outer  median seconds  fraction of the peak: median, first and third quartile
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ops/native/c_api.h"

namespace {

constexpr int rounds = 400;
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

void measure(const char* path, int64_t inner, int64_t outer) {
  const auto x = random_integers<int8_t>(rows * inner, -128, 127);
  const auto w = random_integers<int8_t>(inner * outer, -127, 127);
  const auto bias = random_integers<int32_t>(outer, -10000, 10000);
  const auto m = random_integers<int32_t>(outer, 1 << 30, INT32_MAX);
  const std::vector<int32_t> e(outer, 43), lo{-128}, hi{127};
  const std::vector<mnq_tensor> inputs{tensor(x, {1, rows, inner}), tensor(w, {inner, outer}),
                                       tensor(bias, {outer}),       tensor(m, {outer}),
                                       tensor(e, {outer}),          tensor(lo, {}),
                                       tensor(hi, {})};
  mnq_error error{};
  mnq_kernel* kernel = mnq_make("QLinear", inputs.data(), int8, path, &error);
  if (kernel == nullptr) {
    std::fprintf(stderr, "QLinear on %s: %s\n", path, error.text);
    std::exit(1);
  }
  std::vector<int8_t> y(rows * outer);
  std::vector<double> seconds, fractions;
  for (int round = 0; round < rounds; ++round) {
    const double peak = vnni_peak(), begin = now();
    mnq_run(kernel, inputs.data(), y.data(), 1, &error);
    const double time = now() - begin;
    seconds.push_back(time);
    fractions.push_back(static_cast<double>(rows * inner * outer) / time / peak);
  }
  mnq_free(kernel);
  std::printf("%s %ld %ld %ld %.3e %.4f %.4f %.4f\n", path, static_cast<long>(rows),
              static_cast<long>(inner), static_cast<long>(outer), quantile(seconds, 0.5),
              quantile(fractions, 0.5), quantile(fractions, 0.25), quantile(fractions, 0.75));
}

}  // namespace

int main() {
  std::istringstream paths(mnq_paths());
  for (std::string path; paths >> path;) {
    if (path != "avx512" && path != "amx") continue;
    for (const auto& shape : shapes) measure(path.c_str(), shape[0], shape[1]);
  }
}
