// The rows' assignment of least cost under bounds is a transport problem: rows flow to codewords, and from each codeword
// between `fewest` and `most` of them flow on, to one sink. Its dual gives each codeword a price, above 0 where it is full,
// below 0 where it has no more than it must, and then rows simply take the codeword of least distance + price.
//
//   search_prices: a few sweeps over the rows, each of which moves the prices against what is too many or too few.
//   Flow: makes that exact. What is too many goes along shortest paths to where too few are (successive shortest paths:
//   Ahuja, Magnanti and Orlin, "Network Flows", 1993), on a graph whose nodes are the codewords and the sink alone: the edge
//   from a to b is the row of a that loses least by going to b. Prices are the potentials that keep edges at or above 0.
#ifndef UNITOK_ISA

#include "balanced.h"

#define UNITOK_SOURCE "balanced.cpp"
#include "each_isa.h"

namespace unitok {

void balance(const float* rows, int64_t count, int64_t width, const float* codebook, int64_t codewords, double* prices,
             int64_t* codes, int threads) {
  UNITOK_DISPATCH(balance(rows, count, width, codebook, codewords, prices, codes, threads));
}

}  // namespace unitok

#else

#include "search.h"

#include "scorer.h"

namespace unitok::UNITOK_ISA {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kSweepRows = 512;  // of a task
constexpr int kSweeps = 30;          // at most; each costs about as much as moving 0.2 % of the rows one by one
constexpr int kPatience = 3;

// What all steps share.
struct Problem {
  Problem(const float* rows, int64_t rows_count, int64_t width, const float* codebook, int64_t num_codewords,
          int64_t* row_codes, int num_threads)
      : scorer(rows, width, codebook, num_codewords),
        count(rows_count),
        codewords(num_codewords),
        fewest(count / (2 * codewords)),
        most(ceil_div(2 * count, codewords)),
        sink(scorer.tiles() * 8),
        nodes(sink + 8),
        prices(nodes),
        sizes(codewords),
        codes(row_codes),
        threads(num_threads) {
    std::fill_n(prices.data(), nodes, 0.0);
    count_sizes();
  }

  void count_sizes() {
    std::fill_n(sizes.data(), codewords, int64_t{0});
    for (int64_t i = 0; i < count; ++i) ++sizes[codes[i]];
  }

  // How many rows codeword k should have at its price.
  int64_t goal(int64_t k) const {
    if (prices[k] != 0) return prices[k] > 0 ? most : fewest;
    return std::min(std::max(sizes[k], fewest), most);
  }

  int64_t off_goal() const {
    int64_t rows = 0;
    for (int64_t k = 0; k < codewords; ++k) rows += std::abs(sizes[k] - goal(k));
    return rows;
  }

  const Scorer scorer;
  const int64_t count, codewords, fewest, most;
  const int64_t sink, nodes;  // number of the sink and room for all nodes, both on tiles of their own
  Buffer<double> prices;      // of all nodes
  Buffer<int64_t> sizes;
  int64_t* const codes;
  const int threads;
};

// Gives each row the codeword of least distance + price.
void sweep(Problem& problem) {
  const Scorer& scorer = problem.scorer;
  Buffer<double> base(scorer.tiles() * 8);
  for (int64_t k = 0; k < base.size(); ++k) base[k] = scorer.norms()[k] + problem.prices[k];
  parallel(ceil_div(problem.count, kSweepRows), problem.threads, [&](int64_t task, int) {
    Buffer<double> centred(kGroup * scorer.width());
    const int64_t end = std::min(problem.count, (task + 1) * kSweepRows);
    for (int64_t first = task * kSweepRows; first < end; first += kGroup) {
      const int64_t count = std::min<int64_t>(kGroup, end - first);
      scorer.centre([&](int64_t i) { return first + i; }, count, centred.data());
      D8 best[kGroup], which[kGroup];
      for (D8& cost : best) cost = splat8(kInfinity);
      for (D8& number : which) number = zero8();
      for (int64_t tile = 0; tile < scorer.tiles(); tile += kTiles) {
        D8 cost[kGroup][kTiles];
        scorer.score<kTiles>(centred.data(), tile, base.data(), cost);
        for (int t = 0; t < kTiles; ++t) {
          const D8 number = add(splat8(static_cast<double>((tile + t) * 8)), counting8());
          for (int i = 0; i < kGroup; ++i) {
            which[i] = pick_below(cost[i][t], best[i], number, which[i]);
            best[i] = pick_below(cost[i][t], best[i], cost[i][t], best[i]);
          }
        }
      }
      for (int64_t i = 0; i < count; ++i) problem.codes[first + i] = least_of(best[i], which[i]).second;
    }
  });
  problem.count_sizes();
}

// The mean squared distance of the rows from their codewords.
double mean_distance(const Problem& problem, const float* codebook) {
  double total = 0;
  const int64_t width = problem.scorer.width();
  for (int64_t i = 0; i < problem.count; ++i)
    total += squared_distance(problem.scorer.row(i), codebook + problem.codes[i] * width, width);
  return total / static_cast<double>(problem.count);
}

// Moves prices and rows until few rows are off the goals, or more sweeps don't pay.
void search_prices(Problem& problem, double first_step) {
  const int64_t codewords = problem.codewords;
  std::vector<double> step(static_cast<std::size_t>(codewords), first_step);
  std::vector<int> side(static_cast<std::size_t>(codewords), 0);  // 1: had too many rows, -1: too few
  std::vector<int64_t> course{problem.off_goal()};
  Buffer<double> best(codewords);
  std::copy_n(problem.prices.data(), codewords, best.data());
  int64_t least = course[0];
  while (course.back() * 100 > problem.count && course.size() < kSweeps) {
    for (int64_t k = 0; k < codewords; ++k) {
      const int64_t goal = problem.goal(k), over = problem.sizes[k] - goal;
      const int now = over > 0 ? 1 : over < 0 ? -1 : 0;
      double& stride = step[static_cast<std::size_t>(k)];
      int& before = side[static_cast<std::size_t>(k)];
      if (now * before != 0) stride *= now == before ? 1.3 : 0.5;
      if (now != 0) before = now;
      const double part = std::min(1.0, static_cast<double>(std::abs(over)) / static_cast<double>(goal + 1));
      const double price = problem.prices[k], moved = price + now * part * stride;
      problem.prices[k] = price * moved < 0 ? 0 : moved;  // a codeword without a price has no goal but its bounds
    }
    sweep(problem);
    course.push_back(problem.off_goal());
    if (course.back() < least) {
      least = course.back();
      std::copy_n(problem.prices.data(), codewords, best.data());
    }
    const std::size_t now = course.size();
    if (now > kPatience && (*std::min_element(course.end() - kPatience, course.end()) + problem.count / 150 >
                            *std::min_element(course.begin(), course.end() - kPatience)))
      break;
  }
  if (course.back() > least) {
    std::copy_n(best.data(), codewords, problem.prices.data());
    sweep(problem);
  }
}

// Moves rows along shortest paths until every codeword has its goal.
class Flow {
 public:
  explicit Flow(Problem& problem)
      : problem_(problem),
        members_(static_cast<std::size_t>(problem.codewords)),
        place_(problem.count),
        own_(problem.count),
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
      for (int64_t tile = 0; tile < problem.scorer.tiles(); tile += kTiles) find_losses<kTiles>(k, tile, centred.data());
    });
    excess_[problem.sink] = -problem.count;
    for (int64_t k = 0; k < problem.codewords; ++k) {
      set_flow(k, problem.goal(k));
      excess_[k] = problem.sizes[k] - flow_[k];
      excess_[problem.sink] += flow_[k];
    }
  }

  void run() {
    while (std::any_of(excess_.data(), excess_.data() + problem_.nodes, [](int64_t excess) { return excess > 0; }))
      augment(shortest_path());
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

  // Rows that flow from codeword k to the sink; one more, or one less, costs nothing within the bounds.
  void set_flow(int64_t k, int64_t rows) {
    flow_[k] = rows;
    loss_[k * problem_.nodes + problem_.sink] = rows < problem_.most ? 0 : kInfinity;
    loss_[problem_.sink * problem_.nodes + k] = rows > problem_.fewest ? 0 : kInfinity;
  }

  // Calls visit(group's first place, its size, scores) for all rows of k against Tiles tiles.
  template <int Tiles, class Visit>
  void score_members(int64_t k, int64_t tile, double* centred, const Visit& visit) {
    const auto& rows = members_[static_cast<std::size_t>(k)];
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
    score_members<1>(k, k / 8, centred, [&](const int64_t* rows, int64_t count, const D8(&score)[kGroup][1]) {
      for (int64_t i = 0; i < count; ++i) own_[rows[i]] = lane(score[i][0], k % 8);
    });
  }

  // For Tiles tiles of codewords: which row of k loses least by going there.
  template <int Tiles>
  void find_losses(int64_t k, int64_t tile, double* centred) {
    D8 least[Tiles], which[Tiles];
    for (D8& loss : least) loss = splat8(kInfinity);
    for (D8& row : which) row = splat8(-1);
    score_members<Tiles>(k, tile, centred, [&](const int64_t* rows, int64_t count, const D8(&score)[kGroup][Tiles]) {
      for (int64_t i = 0; i < count; ++i) {
        const D8 own = splat8(own_[rows[i]]), row = splat8(static_cast<double>(rows[i]));
        for (int t = 0; t < Tiles; ++t) take_less(sub(score[i][t], own), row, least[t], which[t]);
      }
    });
    for (int t = 0; t < Tiles; ++t) {
      store8(loss_.data() + k * problem_.nodes + (tile + t) * 8, least[t]);
      store8(row_.data() + k * problem_.nodes + (tile + t) * 8, which[t]);
    }
  }

  static void take_less(D8 loss, D8 row, D8& least, D8& which) {
    which = pick_below(loss, least, row, which);
    least = pick_below(loss, least, loss, least);
  }

  // Dijkstra's algorithm from all nodes with too many to the nearest with too few, whose number is returned; from_ leads
  // back. Prices rise so that no edge falls below 0 and those of the path are at it.
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
        const D8 there = add(here, pick_below(edge, zero8(), zero8(), edge));  // below 0 by rounding alone
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
    return next.second;
  }

  // Sends a row along the path, or as many as are alike on all of it and have somewhere to go.
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

  // Up to `most` rows of the same codeword that equal this one, itself the first.
  std::vector<int64_t> alike(int64_t row, int64_t most) const {
    std::vector<int64_t> found{row};
    const std::size_t bytes = static_cast<std::size_t>(problem_.scorer.width()) * sizeof(float);
    for (const int64_t other : members_[static_cast<std::size_t>(problem_.codes[row])]) {
      if (static_cast<int64_t>(found.size()) >= most) break;
      if (other != row && std::memcmp(problem_.scorer.row(other), problem_.scorer.row(row), bytes) == 0)
        found.push_back(other);
    }
    return found;
  }

  // Finds the losses of codeword k again where one of the rows that left it had the least.
  void forget(int64_t k, const std::vector<int64_t>& rows) {
    for (int64_t tile = 0; tile < problem_.scorer.tiles(); ++tile) {
      const double* const known = row_.data() + k * problem_.nodes + tile * 8;
      const bool stale = std::any_of(known, known + 8, [&](double row) {
        return std::find(rows.begin(), rows.end(), static_cast<int64_t>(row)) != rows.end();
      });
      if (stale) find_losses<1>(k, tile, centred_.data());
    }
  }

  // Takes a row that came to codeword k into its losses.
  void learn(int64_t k, int64_t row) {
    for (int64_t tile = 0; tile < problem_.scorer.tiles(); ++tile) {
      score_one(row, tile);
      double* const loss = loss_.data() + k * problem_.nodes + tile * 8;
      double* const known = row_.data() + k * problem_.nodes + tile * 8;
      D8 least = load8(loss), which = load8(known);
      take_less(sub(score_[0][0], splat8(own_[row])), splat8(static_cast<double>(row)), least, which);
      store8(loss, least);
      store8(known, which);
    }
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
  Buffer<double> loss_, row_;                  // of the edge from one node to another; numbers fit a double
  Buffer<int64_t> flow_, excess_;
  Buffer<double> distance_, open_, from_;  // of the nodes; open: the distance of those not settled
  Buffer<double> centred_;
  D8 score_[kGroup][1];
  std::vector<int64_t> settled_;
};

}  // namespace

void balance(const float* rows, int64_t count, int64_t width, const float* codebook, int64_t codewords, double* prices,
             int64_t* codes, int threads) {
  Problem problem(rows, count, width, codebook, codewords, codes, threads);
  const int64_t off_goal = problem.off_goal();
  if (off_goal > 0) {
    const double scale = mean_distance(problem, codebook);
    if (std::any_of(prices, prices + codewords, [](double price) { return price != 0; })) {
      std::copy_n(prices, codewords, problem.prices.data());
      sweep(problem);
      if (problem.off_goal() >= off_goal) {  // the codebook has changed too much
        std::fill_n(problem.prices.data(), codewords, 0.0);
        sweep(problem);
      }
    }
    search_prices(problem, 0.02 * scale);
    Flow(problem).run();
  }
  std::copy_n(problem.prices.data(), codewords, prices);
}

}  // namespace unitok::UNITOK_ISA

#endif
