// The exact assignment from nearly right prices, by successive shortest paths; balanced.cpp explains it.
#ifndef UNITOK_TRANSPORT_FLOW_H
#define UNITOK_TRANSPORT_FLOW_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"
#include "simd/vec.h"
#include "transport/prices.h"
#include "transport/scorer.h"

namespace unitok::UNITOK_ISA {
namespace {

constexpr int64_t kManyRows = 256;  // a frontier pays for codewords with at least so many rows
constexpr int64_t kParts = 12;      // parts of those rows; each has a row in the frontier

// Moves rows along shortest paths until every codeword has its goal.
class Flow {
 public:
  explicit Flow(Problem& problem)
      : problem_(problem),
        members_(static_cast<std::size_t>(problem.codewords)),
        place_(problem.count),
        own_(problem.count),
        frontiers_(static_cast<std::size_t>(problem.codewords * problem.scorer.tiles())),
        loss_((problem.sink + 1) * problem.nodes),
        row_(problem.sink * problem.nodes),
        flow_(problem.codewords),
        excess_(problem.nodes),
        distance_(problem.nodes),
        open_(problem.nodes),
        from_(problem.nodes),
        centred_(kGroup * problem.scorer.width()) {
    for (int64_t i = 0; i < problem.count; ++i) join(i, problem.codes[i]);
    std::fill_n(loss_.data(), loss_.size(), kInfinity);
    std::fill_n(excess_.data(), excess_.size(), int64_t{0});
    parallel(problem.codewords, problem.threads, [&](int64_t k, int) {
      Buffer<double> centred(kGroup * problem.scorer.width());
      find_own(k, centred.data());
      for (int64_t tile = 0; tile < problem.scorer.tiles(); tile += kTiles)
        find_losses<kTiles>(k, members(k), tile, centred.data());
    });
    excess_[problem.sink] = -problem.count;
    for (int64_t k = 0; k < problem.codewords; ++k) {
      set_flow(k, problem.goal(k));
      excess_[k] = problem.sizes[k] - flow_[k];
      excess_[problem.sink] += flow_[k];
    }
  }

  void run() {
    while (std::any_of(excess_.data(), excess_.data() + problem_.nodes, [](int64_t excess) { return excess > 0; })) {
      check_interrupt();
      augment(shortest_path());
    }
    for (int64_t k = 0; k < problem_.codewords; ++k) problem_.prices[k] -= problem_.prices[problem_.sink];
  }

 private:
  void join(int64_t row, int64_t k) {
    auto& rows = members_[static_cast<std::size_t>(k)];
    place_[row] = static_cast<int64_t>(rows.size());
    rows.push_back(row);
    problem_.codes[row] = k;
  }

  void leave(int64_t row) {
    auto& rows = members_[static_cast<std::size_t>(problem_.codes[row])];
    rows[static_cast<std::size_t>(place_[row])] = rows.back();
    place_[rows.back()] = place_[row];
    rows.pop_back();
  }

  // Sets how many rows flow from codeword k to the sink. Within the bounds, one more or one less costs nothing.
  void set_flow(int64_t k, int64_t rows) {
    flow_[k] = rows;
    loss_[k * problem_.nodes + problem_.sink] = rows < problem_.most ? 0 : kInfinity;
    loss_[problem_.sink * problem_.nodes + k] = rows > problem_.fewest ? 0 : kInfinity;
  }

  // Calls visit(rows of a group, how many, their scores) for all of `rows` against Tiles tiles.
  template <int Tiles, class Visit>
  void score_rows(const std::vector<int64_t>& rows, int64_t tile, double* centred, const Visit& visit) {
    const int64_t size = static_cast<int64_t>(rows.size());
    for (int64_t first = 0; first < size; first += kGroup) {
      const int64_t count = std::min<int64_t>(kGroup, size - first);
      const int64_t* const some = rows.data() + first;
      problem_.scorer.centre([&](int64_t i) { return some[i]; }, count, centred);
      D8 score[kGroup][Tiles];
      problem_.scorer.score<Tiles>(centred, tile, problem_.scorer.norms(), score);
      visit(some, count, score);
    }
  }

  void find_own(int64_t k, double* centred) {
    score_rows<1>(members(k), k / 8, centred, [&](const int64_t* rows, int64_t count, const D8(&score)[kGroup][1]) {
      for (int64_t i = 0; i < count; ++i) own_[rows[i]] = lane(score[i][0], k % 8);
    });
  }

  const std::vector<int64_t>& members(int64_t k) const { return members_[static_cast<std::size_t>(k)]; }

  // For Tiles tiles of codewords: which of some rows of k loses least by going to each of them.
  template <int Tiles>
  void find_losses(int64_t k, const std::vector<int64_t>& some, int64_t tile, double* centred) {
    D8 least[Tiles], which[Tiles];
    for (D8& loss : least) loss = splat8(kInfinity);
    for (D8& row : which) row = splat8(-1);
    score_rows<Tiles>(some, tile, centred, [&](const int64_t* rows, int64_t count, const D8(&score)[kGroup][Tiles]) {
      for (int64_t i = 0; i < count; ++i) {
        const D8 own = splat8(own_[rows[i]]), row = splat8(static_cast<double>(rows[i]));
        for (int t = 0; t < Tiles; ++t) take_less(sub(score[i][t], own), row, least[t], which[t]);
      }
    });
    for (int t = 0; t < Tiles; ++t) {
      store8(loss_.data() + k * problem_.nodes + (tile + t) * 8, least[t]);
      store8(row_.data() + k * problem_.nodes + (tile + t) * 8, which[t]);
    }
    loss_[k * problem_.nodes + k] = kInfinity;
  }

  // The same for a tile whose losses have changed. If k has many rows, its frontier is usually enough: a few rows,
  // chosen so that all others lose at least `beyond`.
  struct Frontier {
    std::vector<int64_t> rows;
    double beyond[8];
  };

  void find_losses_again(int64_t k, int64_t tile) {
    Frontier& frontier = frontiers_[static_cast<std::size_t>(k * problem_.scorer.tiles() + tile)];
    const double* const loss = loss_.data() + k * problem_.nodes + tile * 8;
    if (!frontier.rows.empty()) {
      const auto left = [&](int64_t row) { return problem_.codes[row] != k; };
      frontier.rows.erase(std::remove_if(frontier.rows.begin(), frontier.rows.end(), left), frontier.rows.end());
      find_losses<1>(k, frontier.rows, tile, centred_.data());
      bool enough = true;
      for (int j = 0; j < 8; ++j) enough &= tile * 8 + j == k || !(loss[j] > frontier.beyond[j]);
      if (enough) return;
    }
    find_losses<1>(k, members(k), tile, centred_.data());
    frontier.rows.clear();
    if (static_cast<int64_t>(members(k).size()) >= kManyRows) find_frontier(k, tile, frontier);
  }

  // Splits the rows into parts and takes the best of the worst part. The frontier is all rows that lose less: some of
  // each other part.
  void find_frontier(int64_t k, int64_t tile, Frontier& frontier) {
    const int64_t size = static_cast<int64_t>(members(k).size()), part = ceil_div(size, kParts);
    Buffer<double> losses(8 * size);
    int64_t seen = 0;
    double mine[8] = {};
    if (k / 8 == tile) mine[k % 8] = kInfinity;  // a row can't move to its own codeword
    const D8 staying = load8(mine);
    D8 beyond = splat8(-kInfinity), least = splat8(kInfinity);
    const auto take = [&](const int64_t* rows, int64_t count, const D8(&score)[kGroup][1]) {
      for (int64_t i = 0; i < count; ++i) {
        const D8 loss = add(sub(score[i][0], splat8(own_[rows[i]])), staying);
        least = pick_below(loss, least, loss, least);
        store8(losses.data() + 8 * seen, loss);
        ++seen;
        if (seen % part != 0 && seen != size) continue;
        beyond = pick_below(beyond, least, least, beyond);
        least = splat8(kInfinity);
      }
    };
    score_rows<1>(members(k), tile, centred_.data(), take);
    store8(frontier.beyond, beyond);
    for (int64_t i = 0; i < size; ++i) {
      const D8 inside = pick_below(load8(losses.data() + 8 * i), beyond, splat8(1), zero8());
      if (sum(inside) > 0) frontier.rows.push_back(members(k)[static_cast<std::size_t>(i)]);
    }
  }

  static void take_less(D8 loss, D8 row, D8& least, D8& which) {
    which = pick_below(loss, least, row, which);
    least = pick_below(loss, least, loss, least);
  }

  // Dijkstra's algorithm from all nodes with too many rows to the nearest with too few. Returns that node; from_ leads
  // back. Prices rise so that no edge falls below 0 and the edges of the path are 0.
  int64_t shortest_path() {
    const int64_t nodes = problem_.nodes;
    double* const prices = problem_.prices.data();
    for (int64_t v = 0; v < nodes; ++v) {
      distance_[v] = open_[v] = excess_[v] > 0 ? 0 : kInfinity;
      from_[v] = -1;
    }
    settled_.clear();
    const auto nearest = std::min_element(open_.data(), open_.data() + nodes) - open_.data();
    std::pair<double, int64_t> next{0, nearest};
    while (excess_[next.second] >= 0) {
      const int64_t u = next.second;
      open_[u] = kInfinity;
      settled_.push_back(u);
      const double* const loss = loss_.data() + u * nodes;
      const D8 here = splat8(next.first), price = splat8(prices[u]), number = splat8(static_cast<double>(u));
      D8 least = splat8(kInfinity), which = zero8();
      for (int64_t v = 0; v < nodes; v += 8) {
        const D8 edge = sub(add(load8(loss + v), load8(prices + v)), price);
        const D8 there = add(here, pick_below(edge, zero8(), zero8(), edge));  // below 0 only by rounding
        const D8 before = load8(distance_.data() + v);
        const D8 open = pick_below(there, before, there, load8(open_.data() + v));
        store8(from_.data() + v, pick_below(there, before, number, load8(from_.data() + v)));
        store8(distance_.data() + v, pick_below(there, before, there, before));
        store8(open_.data() + v, open);
        take_less(open, add(splat8(static_cast<double>(v)), counting8()), least, which);
      }
      next = least_of(least, which);
      if (!(next.first < kInfinity)) throw std::logic_error("balanced k-means: the bounds can't be met");
    }
    for (const int64_t u : settled_) prices[u] += next.first - distance_[u];
    double highest = 0;
    for (const int64_t u : settled_) highest = std::max(highest, std::abs(prices[u]));
    again_ = next.first <= 1e-12 * highest;
    return next.second;
  }

  // Sends a row along the path, or several if there are equal rows on all of it and the bounds allow it.
  void augment(int64_t end) {
    struct Step {
      int64_t from, to, row;  // row: -1 where one end is the sink
    };
    std::vector<Step> path;
    std::vector<std::vector<int64_t>> rows;
    int64_t start = end, amount = -excess_[end];
    for (; from_[start] >= 0; start = path.back().from) {
      const int64_t u = static_cast<int64_t>(from_[start]);
      const bool at_sink = u == problem_.sink || start == problem_.sink;
      path.push_back({u, start, at_sink ? -1 : static_cast<int64_t>(row_[u * problem_.nodes + start])});
    }
    amount = std::min(amount, excess_[start]);
    for (const Step& step : path) {
      if (step.to == problem_.sink) amount = std::min(amount, problem_.most - flow_[step.from]);
      if (step.from == problem_.sink) amount = std::min(amount, flow_[step.to] - problem_.fewest);
      rows.push_back(step.row >= 0 ? alike(step.row, amount) : std::vector<int64_t>());
      if (step.row >= 0) amount = static_cast<int64_t>(rows.back().size());
    }
    excess_[end] += amount;
    excess_[start] -= amount;
    for (std::size_t i = 0; i < path.size(); ++i) {
      if (path[i].to == problem_.sink) set_flow(path[i].from, flow_[path[i].from] + amount);
      if (path[i].from == problem_.sink) set_flow(path[i].to, flow_[path[i].to] - amount);
      if (path[i].row < 0) continue;
      rows[i].resize(static_cast<std::size_t>(amount));
      for (const int64_t row : rows[i]) leave(row);
      for (const int64_t row : rows[i]) {
        join(row, path[i].to);
        score_one(row, path[i].to / 8);
        own_[row] = lane(score_[0][0], path[i].to % 8);
      }
    }
    for (std::size_t i = 0; i < path.size(); ++i) {
      if (path[i].row < 0) continue;
      forget(path[i].from, rows[i]);
      for (const int64_t row : rows[i]) learn(path[i].to, row);
    }
  }

  // Up to `most` rows of the same codeword that equal this one, which comes first.
  std::vector<int64_t> alike(int64_t row, int64_t most) const {
    std::vector<int64_t> found{row};
    if (!again_) return found;
    const std::size_t bytes = static_cast<std::size_t>(problem_.scorer.width()) * sizeof(float);
    for (const int64_t other : members_[static_cast<std::size_t>(problem_.codes[row])]) {
      if (static_cast<int64_t>(found.size()) >= most) break;
      if (other != row && std::memcmp(problem_.scorer.row(other), problem_.scorer.row(row), bytes) == 0)
        found.push_back(other);
    }
    return found;
  }

  // Finds the losses of codeword k again if one of the rows that left it had the least.
  void forget(int64_t k, const std::vector<int64_t>& rows) {
    for (int64_t tile = 0; tile < problem_.scorer.tiles(); ++tile) {
      const double* const known = row_.data() + k * problem_.nodes + tile * 8;
      const bool stale = std::any_of(known, known + 8, [&](double row) {
        return std::find(rows.begin(), rows.end(), static_cast<int64_t>(row)) != rows.end();
      });
      if (stale) find_losses_again(k, tile);
    }
  }

  // Updates the losses of codeword k for a row that has come to it.
  void learn(int64_t k, int64_t row) {
    for (int64_t tile = 0; tile < problem_.scorer.tiles(); ++tile) {
      score_one(row, tile);
      double* const loss = loss_.data() + k * problem_.nodes + tile * 8;
      double* const known = row_.data() + k * problem_.nodes + tile * 8;
      D8 least = load8(loss), which = load8(known);
      take_less(sub(score_[0][0], splat8(own_[row])), splat8(static_cast<double>(row)), least, which);
      store8(loss, least);
      store8(known, which);
      auto& frontier = frontiers_[static_cast<std::size_t>(k * problem_.scorer.tiles() + tile)].rows;
      if (!frontier.empty()) frontier.push_back(row);
    }
    loss_[k * problem_.nodes + k] = kInfinity;
  }

  void score_one(int64_t row, int64_t tile) {
    problem_.scorer.centre([&](int64_t) { return row; }, 1, centred_.data());
    problem_.scorer.score<1>(centred_.data(), tile, problem_.scorer.norms(), score_);
  }

  static double lane(D8 values, int64_t which) {
    double value[8];
    store8(value, values);
    return value[which];
  }

  Problem& problem_;
  std::vector<std::vector<int64_t>> members_;  // rows of each codeword
  Buffer<int64_t> place_;                      // of each row in that list
  Buffer<double> own_;                         // score of each row at its codeword
  std::vector<Frontier> frontiers_;            // of each codeword and tile
  Buffer<double> loss_, row_;                  // of the edge from one node to another; numbers fit a double
  Buffer<int64_t> flow_, excess_;
  Buffer<double> distance_, open_, from_;  // of the nodes; open: the distance of those not settled
  Buffer<double> centred_;
  D8 score_[kGroup][1];
  std::vector<int64_t> settled_;
  bool again_ = false;  // whether the last path cost no more than the one before: then there may be equal rows
};

}  // namespace
}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_TRANSPORT_FLOW_H
