// The sums of the bound over the vocabulary, and their gradient, row by row: each row is read once from memory.
//
// With u = softmax(logits) over the data tokens and r = b / a, the noise over the signal:
//
//     lse    = log sum exp(logits)
//     kl     = sum b log1p(a u / b) = a sum r log1p(u / r)
//     spread = sum b a u / (a u + b) = a sum r u / (u + r)
//
// Plain C++ without headers of PyTorch: it compiles in two seconds, and the compiler vectorises the marked loops.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

constexpr int64_t BLOCK = 2048;  // tokens whose intermediate values stay in the cache of first level

inline __attribute__((always_inline)) float as_float(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline __attribute__((always_inline)) int32_t as_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// exp(x) for x <= 0, or NaN: 2^n times a polynomial of the rest (Moshier, Cephes).
inline __attribute__((always_inline)) float exp_of(float x) {
    const float shifted = x * 1.44269504f + 12582912.f;  // adding 1.5 * 2^23 rounds to an integer
    const float n = shifted - 12582912.f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.f;
    const float power = as_float((int32_t)((uint32_t)as_bits(shifted) << 23) + 0x3f800000);
    return x < -87.f ? 0.f : y * power;
}

// log(1 + s) for s >= 0, or NaN; what 1 + s rounds away is added to the mantissa (Moshier, Cephes).
inline __attribute__((always_inline)) float log1p_of(float s) {
    const float u = 1.f + s;
    const float lost = s - (u - 1.f);
    const int32_t k = (as_bits(u) - 0x3f3504f3) >> 23;
    const float f = (as_float(as_bits(u) - k * (1 << 23)) - 1.f) + lost * as_float(0x3f800000 - k * (1 << 23));
    float y = 7.0376836292e-2f;
    y = y * f - 1.1514610310e-1f;
    y = y * f + 1.1676998740e-1f;
    y = y * f - 1.2420140846e-1f;
    y = y * f + 1.4249322787e-1f;
    y = y * f - 1.6668057665e-1f;
    y = y * f + 2.0000714765e-1f;
    y = y * f - 2.4999993993e-1f;
    y = y * f + 3.3333331174e-1f;
    const float square = f * f, power = (float)k;
    y = y * f * square - 2.12194440e-4f * power - 0.5f * square;
    return f + y + 0.693359375f * power;
}

struct Noise {
    const double *level;         // [n], or null
    const double *weights;       // [n, parts]
    const float *const *rows;    // [parts] rows [states]
    int64_t parts;
};

// Calls `piece(first, last)` for the ranges between the tokens `off`, which are in increasing order.
template <class Piece> void between(int64_t states, const int64_t *off, int64_t offs, Piece piece) {
    int64_t first = 0;
    for (int64_t k = 0; k <= offs; ++k) {
        const int64_t last = k < offs ? off[k] : states;
        for (int64_t i = first; i < last; i += BLOCK) piece(i, i + BLOCK < last ? i + BLOCK : last);
        first = last + 1;
    }
}

// The noise over the signal, of tokens first to last, into r.
void ratio(const Noise &noise, int64_t row, double a, int64_t first, int64_t last, float *r) {
    const int64_t n = last - first;
    const float level = noise.level ? (float)(noise.level[row] / a) : 0.f;
    for (int64_t i = 0; i < n; ++i) r[i] = level;
    for (int64_t k = 0; k < noise.parts; ++k) {
        const float weight = (float)(noise.weights[row * noise.parts + k] / a);
        const float *part = noise.rows[k] + first;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) r[i] += weight * part[i];
    }
}

float highest(const float *l, int64_t n, float start) {
    float m = start;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; ++i) m = l[i] > m ? l[i] : m;
    return m;
}

float exponentials(const float *l, int64_t n, float m, float *e) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) {
        e[i] = exp_of(l[i] - m);
        total += e[i];
    }
    return total;
}

// sum log1p(c e) and sum c e / (1 + c e) over at most BLOCK tokens. Logarithms are taken of products of `group` factors,
// as (1 + p)(1 + q) = 1 + (p + q + p q), which is exact for small p and q.
void constant_sums(const float *e, int64_t n, float c, int group, double &logs, double &shares) {
    alignas(64) float s[BLOCK];
    float share = 0, log = 0;
#pragma omp simd reduction(+ : share)
    for (int64_t i = 0; i < n; ++i) {
        s[i] = c * e[i];
        share += s[i] / (1.f + s[i]);
    }
    int64_t width = BLOCK;
    if (n == BLOCK) {
        for (; group > 1; group /= 2) {
            width /= 2;
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) s[i] += s[i + width] + s[i] * s[i + width];
        }
    } else {
        width = n;
    }
#pragma omp simd reduction(+ : log)
    for (int64_t i = 0; i < width; ++i) log += log1p_of(s[i]);
    logs += log;
    shares += share;
}

// sum r log1p(u / r) and sum r u / (u + r), for u = e / total.
void row_sums(const float *e, const float *r, int64_t n, float inverse, double &logs, double &shares) {
    float share = 0, log = 0;
#pragma omp simd reduction(+ : share, log)
    for (int64_t i = 0; i < n; ++i) {
        const float u = e[i] * inverse;
        log += r[i] * log1p_of(u / r[i]);
        share += r[i] * u / (u + r[i]);
    }
    logs += log;
    shares += share;
}

template <class Row> void in_threads(int64_t n, int64_t threads, Row row) {
    if (threads > n) threads = n;
    auto run = [&](int64_t k) { row(n * k / threads, n * (k + 1) / threads); };
    std::vector<std::thread> others;
    for (int64_t k = 1; k < threads; ++k) others.emplace_back(run, k);
    if (threads > 0) run(0);
    for (auto &other : others) other.join();
}

// Asks for large pages, if the system gives them on request: memory that is written for the first time is then several
// times as fast, as the system clears 2 MiB at once.
void prefer_large_pages(float *start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = uintptr_t(1) << 21, first = ((uintptr_t)start + page - 1) / page * page;
    const uintptr_t last = ((uintptr_t)start + bytes) / page * page;
    if (last > first) madvise((void *)first, last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace

extern "C" void noiselab_sums(const float *logits, int64_t n, int64_t stride, int64_t states, const int64_t *off,
                              int64_t offs, const double *a, const double *level, const double *weights,
                              const float *const *rows, int64_t parts, double *top, double *total, double *kl,
                              double *spread, int64_t threads) {
    const Noise noise{level, weights, rows, parts};
    in_threads(n, threads, [&](int64_t first_row, int64_t last_row) {
        std::vector<float> e(states);
        alignas(64) float r[BLOCK];
        for (int64_t row = first_row; row < last_row; ++row) {
            const float *l = logits + row * stride;
            float m = -std::numeric_limits<float>::infinity();
            between(states, off, offs, [&](int64_t i, int64_t j) { m = highest(l + i, j - i, m); });
            double sum = 0, logs = 0, shares = 0;
            between(states, off, offs,
                    [&](int64_t i, int64_t j) { sum += exponentials(l + i, j - i, m, e.data() + i); });
            if (parts) {
                const float inverse = (float)(1 / sum);
                between(states, off, offs, [&](int64_t i, int64_t j) {
                    ratio(noise, row, a[row], i, j, r);
                    row_sums(e.data() + i, r, j - i, inverse, logs, shares);
                });
                logs *= a[row];
                shares *= a[row];
            } else if (level) {
                const double ratio = a[row] / level[row];
                // The factors of a product sum to at most `ratio`, so that the product stays below 1e30.
                const int group = ratio < 1e4 ? 8 : ratio < 1e8 ? 4 : 2;
                between(states, off, offs, [&](int64_t i, int64_t j) {
                    constant_sums(e.data() + i, j - i, (float)(ratio / sum), group, logs, shares);
                });
                logs *= level[row];
                shares *= level[row];
            }
            top[row] = m, total[row] = sum, kl[row] = logs, spread[row] = shares;
        }
    });
}

// gradient = signal u - noise a r u / (u + r), in the place of the logits if the two are the same.
extern "C" void noiselab_gradient(const float *logits, int64_t n, int64_t stride, int64_t states, const int64_t *off,
                                  int64_t offs, const double *a, const double *level, const double *weights,
                                  const float *const *rows, int64_t parts, const double *top, const double *total,
                                  const double *signal, const double *noise_factor, float *gradient,
                                  int64_t gradient_stride, int64_t threads) {
    const Noise noise{level, weights, rows, parts};
    if (gradient != logits) prefer_large_pages(gradient, 4 * n * gradient_stride);
    in_threads(n, threads, [&](int64_t first_row, int64_t last_row) {
        alignas(64) float r[BLOCK];
        for (int64_t row = first_row; row < last_row; ++row) {
            const float *l = logits + row * stride;
            float *out = gradient + row * gradient_stride;
            const float m = (float)top[row], inverse = (float)(1 / total[row]), up = (float)signal[row];
            const float down = (float)(noise_factor[row] * a[row]);
            between(states, off, offs, [&](int64_t i, int64_t j) {
                const float *from = l + i;
                float *to = out + i;
                const int64_t count = j - i;
                if (parts) {
                    ratio(noise, row, a[row], i, j, r);
#pragma omp simd
                    for (int64_t v = 0; v < count; ++v) {
                        const float u = exp_of(from[v] - m) * inverse;
                        to[v] = u * (up - down * r[v] / (u + r[v]));
                    }
                } else if (level) {
                    const float constant = (float)(level[row] / a[row]), scaled = down * constant;
#pragma omp simd
                    for (int64_t v = 0; v < count; ++v) {
                        const float u = exp_of(from[v] - m) * inverse;
                        to[v] = u * (up - scaled / (u + constant));
                    }
                } else {
                    const float factor = up * inverse;
#pragma omp simd
                    for (int64_t v = 0; v < count; ++v) to[v] = exp_of(from[v] - m) * factor;
                }
            });
            for (int64_t k = 0; k < offs; ++k) out[off[k]] = 0;
        }
    });
}
