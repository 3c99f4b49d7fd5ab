use super::*;

const ROUNDS: u64 = 40_000;

fn candidates(weights: &[u64]) -> Vec<Candidate> {
    // Numbers are not indexes.
    weights
        .iter()
        .enumerate()
        .map(|(index, weight)| Candidate { server: index + 3, weight: *weight })
        .collect()
}

/// How often each candidate is picked in [`ROUNDS`] rounds.
fn shares(weights: &[u64], mut pick: impl FnMut(&[Candidate], u64) -> Option<usize>) -> Vec<u64> {
    let (candidates, mut random) = (candidates(weights), fastrand::Rng::with_seed(1));
    let mut shares = vec![0; weights.len()];
    for _ in 0..ROUNDS {
        shares[pick(&candidates, random.u64(..)).unwrap() - 3] += 1;
    }
    shares
}

fn about(shares: &[u64], expected: &[u64]) -> bool {
    let total: u64 = expected.iter().sum();
    let is_near = |(share, part): (&u64, &u64)| share.abs_diff(ROUNDS * part / total) < ROUNDS / 50;
    shares.iter().zip(expected).all(is_near)
}

/// Each pick opens a connection and the oldest of so many ends; answers how many are open to each on average.
fn steady(
    weights: &[u64],
    open_at_once: usize,
    mut pick: impl FnMut(&[Candidate], &[u64], u64) -> Option<usize>,
) -> Vec<u64> {
    let (candidates, mut random) = (candidates(weights), fastrand::Rng::with_seed(2));
    let (mut open, mut sums) = (vec![0; weights.len() + 3], vec![0; weights.len()]);
    let mut ages = std::collections::VecDeque::new();
    for _ in 0..ROUNDS {
        let picked = pick(&candidates, &open, random.u64(..)).unwrap();
        open[picked] += 1;
        ages.push_back(picked);
        if ages.len() > open_at_once {
            let swapped = random.usize(..ages.len());
            ages.swap(0, swapped);
            open[ages.pop_front().unwrap()] -= 1;
        }
        sums.iter_mut().zip(&open[3..]).for_each(|(sum, open)| *sum += open);
    }
    sums.iter().map(|sum| sum / open_at_once as u64).collect()
}

#[test]
fn idle_servers_get_connections_by_weight() {
    let random_two = shares(&[1, 1, 1, 1], |all, random| random_two(all, |_| 7, random));
    assert!(about(&random_two, &[1, 1, 1, 1]), "{random_two:?}");
    let none_open = shares(&[1, 2, 5], |all, random| super::random_two(all, |_| 0, random));
    assert!(about(&none_open, &[1, 2, 5]), "{none_open:?}");
    let least = shares(&[1, 2, 5], |all, random| least_connections(all, |_| 0, random));
    assert!(about(&least, &[1, 2, 5]), "{least:?}");
}

#[test]
fn busy_servers_have_open_connections_by_weight() {
    let two = steady(&[1, 2, 5], 200, |all, open, random| random_two(all, |server| open[server], random));
    assert!(about(&two, &[1, 2, 5]), "{two:?}");
    let least =
        steady(&[1, 2, 5], 200, |all, open, random| least_connections(all, |server| open[server], random));
    assert!(about(&least, &[1, 2, 5]), "{least:?}");
}

#[test]
fn of_random_two_the_busiest_is_never_picked_and_the_idlest_most() {
    let open = [0, 0, 0, 1, 2, 3, 9];
    let shares = shares(&[1; 4], |all, random| random_two(all, |server| open[server], random));
    assert_eq!(shares[3], 0);
    // The idlest wins every pair it is in: half of all pairs.
    assert!(shares[0].abs_diff(ROUNDS / 2) < ROUNDS / 50, "{shares:?}");
}

#[test]
fn fewest_connections_for_the_weight_is_least() {
    let all = candidates(&[1, 4, 2]);
    let pick = |open: [u64; 3]| least_connections(&all, |server| open[server - 3], 5).unwrap() - 3;
    assert_eq!([pick([1, 3, 2]), pick([1, 5, 3]), pick([2, 8, 3])], [1, 0, 2]);
}

#[test]
fn round_robin_goes_round_by_weight_and_evenly() {
    let mut credits = [0; 6];
    let all = candidates(&[5, 1, 1]);
    let picks: Vec<_> = (0..14).map(|_| round_robin(&all, &mut credits, 0).unwrap() - 3).collect();
    // As nginx describes its own.
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn workers_that_begin_at_once_do_not_go_in_step() {
    let all = candidates(&[1000; 4]);
    let mut first = [0; 4];
    for worker in 0..4000 {
        let mut credits = [FRESH; 7];
        let picks: Vec<_> = (0..8).map(|_| round_robin(&all, &mut credits, worker).unwrap() - 3).collect();
        first[picks[0]] += 1;
        assert_eq!(picks[..4], picks[4..], "each in its turn");
        assert_eq!((0..4).filter(|server| picks[..4].contains(server)).count(), 4);
    }
    assert!(first.iter().all(|count: &i32| count.abs_diff(1000) < 200), "{first:?}");
}

#[test]
fn weights_that_become_smaller_starve_nobody() {
    let mut credits = [0; 5];
    for _ in 0..3 {
        round_robin(&candidates(&[1_000_000, 1]), &mut credits, 0);
    }
    let all = candidates(&[1, 1]);
    let picks: Vec<_> = (0..20).map(|_| round_robin(&all, &mut credits, 0).unwrap() - 3).collect();
    assert!((8..=12).contains(&picks.iter().sum::<usize>()), "{picks:?}");
}

/// Which server each of so many clients has.
fn places(all: &[Candidate], clients: u64) -> Vec<usize> {
    let key = |server: usize| Some(mixed(server as u64 + 77));
    (0..clients).map(|client| source_hash(all, key, mixed(client)).unwrap()).collect()
}

#[test]
fn clients_are_shared_by_weight() {
    let mut shares = [0; 3];
    places(&candidates(&[1, 2, 5]), ROUNDS).iter().for_each(|server| shares[server - 3] += 1);
    assert!(about(&shares, &[1, 2, 5]), "{shares:?}");
}

#[test]
fn only_clients_of_what_goes_or_changes_move() {
    let all = candidates(&[1; 5]);
    let before = places(&all, ROUNDS);
    let without: Vec<_> = all.iter().copied().filter(|candidate| candidate.server != 4).collect();
    for (was, is) in before.iter().zip(places(&without, ROUNDS)) {
        assert!(*was == is || *was == 4);
    }
    let mut heavier = all.clone();
    heavier[2].weight = 2;
    let moved: Vec<_> = before.iter().zip(places(&heavier, ROUNDS)).filter(|(was, is)| *was != is).collect();
    assert!(moved.iter().all(|(_, is)| *is == heavier[2].server));
    // From one fifth of them to two sixths.
    assert!((moved.len() as u64).abs_diff(ROUNDS * 2 / 15) < ROUNDS / 50, "{}", moved.len());
}

#[test]
fn whoever_is_alone_is_picked_and_of_nobody_none() {
    for count in [0, 1] {
        let all = candidates(&vec![3; count]);
        let expected = (count == 1).then_some(3);
        for random in [0, u64::MAX, 1 << 63] {
            assert_eq!(random_two(&all, |_| 9, random), expected);
            assert_eq!(least_connections(&all, |_| 9, random), expected);
            assert_eq!(round_robin(&all, &mut [FRESH; 4], random), expected);
            assert_eq!(source_hash(&all, |_| Some(1), random), expected);
        }
    }
}

#[test]
fn every_draw_is_one_of_the_others() {
    let all = candidates(&[1, 1000, 7]);
    for random in [0, u64::MAX, 1 << 32, u64::from(u32::MAX), 0x1234_5678_9abc_def0] {
        for but in [None, Some(0), Some(1), Some(2)] {
            assert_ne!(drawn(&all, but, random), but);
            assert!(drawn(&all, but, random).is_some_and(|index| index < 3));
        }
    }
}
