//! The reduced gradient has the same bits for any members, any number of microbatches and any order of arrival.

#![allow(clippy::single_range_in_vec_init, reason = "a member may well have one range of microbatches")]

use proptest::prelude::*;
use protocol::accumulate::Accumulator;
use protocol::assignment::{deal_again, ranges};
use protocol::ids::{MemberId, Phase, StepKey, ViewId};
use protocol::permutation::{Permutation, mix};
use protocol::reduce::SLICE;
use protocol::reducer::Reducer;
use protocol::tree::Node;

const KEY: StepKey = StepKey { view: ViewId(1 << 32), step: 1, phase: Phase::Train };

/// The gradient of a microbatch: magnitudes from 2^-8 to 2^7, so that every other order rounds differently; some
/// values are -0.0, some parameters have no gradient.
fn gradient(microbatch: u32, layout: &[std::ops::Range<usize>]) -> Vec<Option<Vec<f32>>> {
    let value = |i: usize| {
        let bits = mix((u64::from(microbatch) << 32) | i as u64);
        let scale = 2f32.powi((bits >> 60) as i32 - 8);
        if bits.is_multiple_of(7) { -0.0 } else { ((bits & 0xff_ffff) as f32 / 8_388_608.0 - 1.0) * scale }
    };
    let absent = |parameter: usize| mix(u64::from(microbatch) ^ (parameter as u64 * 77)).is_multiple_of(4);
    layout
        .iter()
        .enumerate()
        .map(|(parameter, range)| (!absent(parameter)).then(|| range.clone().map(value).collect()))
        .collect()
}

fn sums(microbatch: u32) -> [f64; 3] {
    let bits = mix(u64::from(microbatch));
    [f64::from_bits(0x3ff0_0000_0000_0000 | (bits >> 12)), f64::from((bits % 3) as u32), 1.0]
}

/// The sum of the microbatches from `start`, as protocol.md defines it, by recursion: (gradient, sums). A child
/// without microbatches doesn't exist; a parameter without a gradient isn't added.
fn by_the_page(start: u32, length: u32, count: u32, layout: &[std::ops::Range<usize>]) -> Option<Summed> {
    if start >= count {
        return None;
    }
    if length == 1 {
        return Some((gradient(start, layout), sums(start).to_vec()));
    }
    let left = by_the_page(start, length / 2, count, layout)?;
    let Some(right) = by_the_page(start + length / 2, length / 2, count, layout) else { return Some(left) };
    let add = |(left, right): (Option<Vec<f32>>, Option<Vec<f32>>)| match (left, right) {
        (Some(left), Some(right)) => Some(left.iter().zip(&right).map(|(l, r)| l + r).collect()),
        (left, right) => left.or(right),
    };
    let gradients = left.0.into_iter().zip(right.0).map(add).collect();
    Some((gradients, left.1.iter().zip(&right.1).map(|(l, r)| l + r).collect()))
}

type Summed = (Vec<Option<Vec<f32>>>, Vec<f64>);

type Reduced = (Vec<u32>, Vec<u64>, Vec<u8>, Vec<u64>);

/// Reduces a step of `count` microbatches computed by members with these shares; `arrival` keys the order in which
/// their messages arrive.
fn reduce(count: u32, shares: &[u32], layout: &[std::ops::Range<usize>], arrival: u64) -> Reduced {
    let mut dealt: Vec<_> = ranges(shares, count).into_iter().map(|range| vec![range]).collect();
    if dealt.len() > 1 && arrival % 2 == 1 {
        // One member is lost in the middle of the step, and the others compute its microbatches.
        dealt.remove(arrival as usize / 2 % shares.len());
        dealt = deal_again(&dealt, &vec![1; dealt.len()], count);
    }
    let members: Vec<_> =
        dealt.into_iter().enumerate().map(|(i, ranges)| (MemberId(i as u64), ranges)).collect();
    let elements = layout.last().map_or(0, |range| range.end);
    let mut reducer = Reducer::new(KEY, count, &members, elements);
    let mut facts = Vec::new();
    let mut slices = Vec::new();
    for (member, ranges) in &members {
        let mut accumulator = Accumulator::new(layout.to_vec());
        accumulator.begin_step(count);
        for microbatch in ranges.iter().cloned().flatten() {
            accumulator.begin(microbatch);
            for (parameter, gradient) in gradient(microbatch, layout).into_iter().enumerate() {
                if let Some(gradient) = gradient {
                    accumulator.region(parameter, &gradient);
                }
            }
            accumulator.end(&sums(microbatch));
        }
        for partial in accumulator.partials() {
            facts.push((*member, partial.node, partial.sums.clone(), partial.presence.clone()));
            for slice in 0..reducer.slices() {
                let range = protocol::reduce::slice_range(slice, elements);
                slices.push((*member, partial.node, slice, partial.values[range].to_vec()));
            }
        }
    }
    let mut reduced_sums = None;
    for (member, node, sums, presence) in shuffled(facts, arrival) {
        reduced_sums = reducer.insert_sums(member, node, sums, presence).expect("taken in").or(reduced_sums);
    }
    let mut mean = vec![0u32; elements];
    let mut hashes = Vec::new();
    let mut done: Vec<_> = shuffled(slices, arrival)
        .into_iter()
        .filter_map(|(member, node, slice, values)| {
            reducer.insert(member, node, slice, values, &mut Vec::new()).expect("taken in")
        })
        .collect();
    done.sort_by_key(|slice| slice.slice);
    for slice in done {
        let range = protocol::reduce::slice_range(slice.slice, elements);
        mean[range].iter_mut().zip(&slice.values).for_each(|(to, from)| *to = from.to_bits());
        hashes.extend(slice.facts.hashes);
    }
    let whole = reduced_sums.expect("complete");
    (mean, hashes, whole.presence, whole.sums.iter().map(|sum| sum.to_bits()).collect())
}

fn shuffled<T>(items: Vec<T>, key: u64) -> Vec<T> {
    let permutation = Permutation::new(items.len().max(1) as u64, key);
    let mut keyed: Vec<(u64, T)> =
        items.into_iter().enumerate().map(|(i, item)| (permutation.at(i as u64), item)).collect();
    keyed.sort_by_key(|(place, _)| *place);
    keyed.into_iter().map(|(_, item)| item).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn bits_are_the_same_for_any_members_and_any_order(
        count in 1u32..40,
        shares in prop::collection::vec(0u32..9, 1..8),
        arrival: u64,
    ) {
        let layout = [0..3, 3..40, 40..41];
        let alone = reduce(count, &[1], &layout, 0);
        prop_assert_eq!(&reduce(count, &shares, &layout, arrival), &alone);
        for members in [2, 3, 5, 7] {
            prop_assert_eq!(&reduce(count, &vec![1; members], &layout, arrival), &alone);
        }
    }
}

#[test]
fn a_gradient_of_several_slices_reduces_the_same() {
    let layout = [0..SLICE - 5, SLICE - 5..SLICE + 70_000];
    assert_eq!(reduce(6, &[2, 1, 1], &layout, 5), reduce(6, &[1], &layout, 0));
}

#[test]
fn the_bits_are_those_of_the_page() {
    let layout = [0..3, 3..40, 40..41];
    for count in (1u32..40).chain([64, 100]) {
        let (gradients, sums) = by_the_page(0, count.next_power_of_two(), count, &layout).expect("samples");
        let (mean, _, presence, reduced_sums) = reduce(count, &[2, 3, 1], &layout, 9);
        assert_eq!(reduced_sums, sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>());
        let bits = gradients.iter().enumerate().map(|(i, gradient)| u8::from(gradient.is_some()) << i);
        assert_eq!(presence, [bits.sum::<u8>()]);
        let weight = sums[1] as f32;
        for (range, gradient) in layout.iter().zip(gradients) {
            let gradient = gradient.unwrap_or_else(|| vec![-0.0; range.len()]);
            let expected: Vec<u32> = gradient.iter().map(|sum| (sum / weight).to_bits()).collect();
            assert_eq!(mean[range.clone()], expected, "{count} microbatches");
        }
    }
}

#[test]
fn a_step_that_weighs_nothing_keeps_its_sum() {
    let mut reducer = Reducer::new(KEY, 2, &[(MemberId(0), vec![0..1]), (MemberId(1), vec![1..2])], 3);
    for member in 0..2 {
        let sums = reducer.insert_sums(MemberId(member), Node::leaf(member as u32), vec![0.0, 0.0], vec![0]);
        assert_eq!(sums.expect("taken in").is_some(), member == 1);
    }
    let (values, spent) = (vec![-0.0, 0.0, 2.5], &mut Vec::new());
    assert!(
        reducer.insert(MemberId(0), Node::leaf(0), 0, values.clone(), spent).expect("taken in").is_none()
    );
    let reduced =
        reducer.insert(MemberId(1), Node::leaf(1), 0, values, spent).expect("taken in").expect("whole");
    let bits: Vec<u32> = reduced.values.iter().map(|value| value.to_bits()).collect();
    assert_eq!(bits, [-0.0f32, 0.0, 5.0].map(f32::to_bits));
    assert_eq!(reduced.facts.squared_norm(), 25.0);
}

#[test]
fn the_data_of_these_tests_tell_orders_apart() {
    // The same microbatches in a running sum, forwards and backwards, give other bits than the tree.
    let layout = [0..3, 3..40, 40..41];
    let (count, elements) = (24, 41);
    let running = |order: &mut dyn Iterator<Item = u32>| {
        let mut total = vec![-0.0f32; elements];
        let mut weight = 0.0;
        for microbatch in order {
            weight += sums(microbatch)[1];
            for (range, gradient) in layout.iter().zip(gradient(microbatch, &layout)) {
                let gradient = gradient.unwrap_or_else(|| vec![-0.0; range.len()]);
                total[range.clone()].iter_mut().zip(gradient).for_each(|(t, g)| *t += g);
            }
        }
        total.iter().map(|t| (t / weight as f32).to_bits()).collect::<Vec<_>>()
    };
    let tree = reduce(count, &[1], &layout, 0).0;
    assert_ne!(running(&mut (0..count)), tree);
    assert_ne!(running(&mut (0..count).rev()), tree);
}

#[test]
fn wrong_senders_are_told_what_is_wrong() {
    let members = [(MemberId(1), vec![0..2]), (MemberId(2), vec![2..4])];
    let mut reducer = Reducer::new(KEY, 4, &members, 3);
    let (left, spent) = (Node { level: 1, index: 0 }, &mut Vec::new());
    let said = reducer
        .insert_sums(MemberId(2), left, vec![1.0, 1.0], vec![1])
        .expect_err("not its node")
        .to_string();
    assert!(said.contains("not among"), "{said}");
    let said = reducer.insert(MemberId(1), left, 0, vec![0.0; 3], spent).expect_err("sums first").to_string();
    assert!(said.contains("before the sums"), "{said}");
    reducer.insert_sums(MemberId(1), left, vec![1.0, 1.0], vec![1]).expect("taken in");
    assert!(reducer.insert_sums(MemberId(1), left, vec![1.0, 1.0], vec![1]).is_err(), "twice");
    assert!(reducer.insert(MemberId(1), left, 0, vec![0.0; 2], spent).is_err(), "short");
    assert!(reducer.insert(MemberId(1), left, 1, vec![], spent).is_err(), "no such slice");
    assert!(reducer.insert(MemberId(9), left, 0, vec![0.0; 3], spent).is_err(), "no member");
    let right = Node { level: 1, index: 1 };
    assert!(reducer.insert_sums(MemberId(2), right, vec![1.0, 1.0], vec![1, 0]).is_err(), "longer presence");
    assert!(reducer.insert_sums(MemberId(2), right, vec![1.0], vec![1]).is_err(), "fewer sums");
    // A rejected frame leaves no trace: the step is reduced.
    assert!(reducer.insert_sums(MemberId(2), right, vec![1.0, 1.0], vec![1]).expect("taken in").is_some());
    assert!(reducer.insert(MemberId(1), left, 0, vec![4.0; 3], spent).expect("taken in").is_none());
    assert!(reducer.insert(MemberId(1), left, 0, vec![9.0; 3], spent).is_err(), "twice, while it is open");
    let reduced = reducer.insert(MemberId(2), right, 0, vec![2.0; 3], spent).expect("taken in");
    assert_eq!(reduced.map(|slice| slice.values), Some(vec![3.0; 3]));
    assert!(reducer.insert(MemberId(1), left, 0, vec![9.0; 3], spent).is_err(), "twice, once it is reduced");
}

/// A step of two members with one node each, with three and a half slices.
fn two_members() -> (Reducer, [Node; 2], usize) {
    let elements = 3 * SLICE + SLICE / 2;
    let mut reducer = Reducer::new(KEY, 2, &[(MemberId(0), vec![0..1]), (MemberId(1), vec![1..2])], elements);
    let nodes = [Node::leaf(0), Node::leaf(1)];
    for (member, node) in nodes.into_iter().enumerate() {
        reducer.insert_sums(MemberId(member as u64), node, vec![0.0, 1.0], vec![1]).expect("taken in");
    }
    (reducer, nodes, elements)
}

#[test]
fn buffers_neither_run_out_nor_pile_up() {
    let mut pool: Vec<Vec<f32>> = Vec::new();
    let mut made = 0;
    for _ in 0..100 {
        let (reducer, nodes, elements) = two_members();
        let mut reducer = reducer.with_spare(pool.pop().unwrap_or_default());
        for slice in 0..reducer.slices() {
            let mut means = Vec::new();
            for (member, node) in nodes.into_iter().enumerate() {
                let mut values = pool.pop().unwrap_or_else(|| {
                    made += 1;
                    Vec::new()
                });
                values.clear();
                values.resize(protocol::reduce::slice_range(slice, elements).len(), member as f32);
                let reduced = reducer.insert(MemberId(member as u64), node, slice, values, &mut pool);
                means.extend(reduced.expect("taken in").map(|slice| slice.values));
            }
            assert!(means.len() == 1 && means[0].iter().all(|mean| *mean == 0.5));
            pool.append(&mut means);
        }
        assert!(pool.len() < reducer.buffers_max());
        pool.extend(reducer.into_buffers());
    }
    assert_eq!((made, pool.len()), (2, 3), "one for each member's partial, and one for the mean");
}

#[test]
fn the_window_bounds_what_is_held_and_moves_on() {
    let (mut reducer, nodes, elements) = two_members();
    let insert = |reducer: &mut Reducer, member: usize, slice: u32| {
        let values = vec![0.0; protocol::reduce::slice_range(slice, elements).len()];
        reducer
            .insert(MemberId(member as u64), nodes[member], slice, values, &mut Vec::new())
            .expect("taken in")
    };
    assert_eq!(reducer.lowest_open(), 0);
    // Neither a member that runs ahead nor a slice that is reduced above an open one moves the window.
    assert!(insert(&mut reducer, 0, 0).is_none() && insert(&mut reducer, 0, 1).is_none());
    assert!(insert(&mut reducer, 1, 1).is_some());
    assert_eq!(reducer.lowest_open(), 0);
    assert!(insert(&mut reducer, 1, 0).is_some());
    assert_eq!(reducer.lowest_open(), 2);
}
