// Runs an exported model with nothing but onnxruntime and the native library.
//
//   g++ -std=c++17 -I HEADERS run.cc -L LIBRARIES -lonnxruntime -o run
//   ./run model.onnx libmnq_ops.so [pixels]
//
// HEADERS holds onnxruntime_cxx_api.h, LIBRARIES libonnxruntime.so; both are in onnxruntime's
// release archives, and in Debian's libonnxruntime-dev. With - in place of the library the model
// runs from its own functions: the same integers, slowly. `pixels` is a file of uint8 values,
// channel by channel, in the model's size; without it the image is made up.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <vector>

// The image, one of `size` values.
static std::vector<uint8_t> read_pixels(const char* path, size_t size) {
  std::vector<uint8_t> pixels(size);
  if (path == nullptr) {
    for (size_t i = 0; i < size; ++i) pixels[i] = static_cast<uint8_t>(i * 7 % 251);
    return pixels;
  }
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(size));
  if (!file || file.peek() != EOF) {
    throw std::runtime_error("pixels: expected a file of " + std::to_string(size) + " bytes");
  }
  return pixels;
}

static void run(const char* model, const char* library, const char* image) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::SessionOptions options;
  if (std::strcmp(library, "-") != 0) options.RegisterCustomOpsLibrary(library);
  Ort::Session session(env, model, options);

  const Ort::TypeInfo type = session.GetInputTypeInfo(0);
  const auto input = type.GetTensorTypeAndShapeInfo();
  if (input.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) {
    throw std::runtime_error("model: expected uint8 pixels as input; export with --input uint8");
  }
  std::vector<int64_t> shape = input.GetShape();
  shape[0] = 1;  // the batch; any other number does as well
  const auto size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  std::vector<uint8_t> pixels = read_pixels(image, static_cast<size_t>(size));

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const Ort::Value tensor = Ort::Value::CreateTensor<uint8_t>(
      memory, pixels.data(), pixels.size(), shape.data(), shape.size());
  const char* inputs[] = {"image"};
  const char* outputs[] = {"logits"};
  const std::vector<Ort::Value> results =
      session.Run(Ort::RunOptions(), inputs, &tensor, 1, outputs, 1);

  const int32_t* logits = results[0].GetTensorData<int32_t>();
  std::vector<size_t> order(results[0].GetTensorTypeAndShapeInfo().GetElementCount());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  for (size_t i = 0; i < std::min<size_t>(5, order.size()); ++i) {
    std::printf("class %zu: %d\n", order[i], logits[order[i]]);
  }
}

int main(int count, char** arguments) {
  if (count < 3 || count > 4) {
    std::fprintf(stderr, "usage: run MODEL.ONNX LIBMNQ_OPS.SO|- [PIXELS]\n");
    return 2;
  }
  try {
    run(arguments[1], arguments[2], count == 4 ? arguments[3] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return 1;
  }
}
