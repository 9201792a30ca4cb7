//! The reduced gradient has the same bits for any members, any count of microbatches and any order of arrival.

use proptest::prelude::*;
use protocol::accumulate::Accumulator;
use protocol::assignment::ranges;
use protocol::ids::{MemberId, Phase, StepKey, ViewId};
use protocol::permutation::{Permutation, mix};
use protocol::reduce::SLICE;
use protocol::reducer::Reducer;
use protocol::tree::Node;

const KEY: StepKey = StepKey { view: ViewId(1 << 32), step: 1, phase: Phase::Train };

/// The gradient of a microbatch: magnitudes from 2^-8 to 2^7, so that every other order rounds differently; some are
/// -0.0, some parameters have none.
fn gradient(microbatch: u32, layout: &[std::ops::Range<usize>]) -> Vec<Option<Vec<f32>>> {
    let value = |i: usize| {
        let bits = mix((u64::from(microbatch) << 32) | i as u64);
        let scale = 2f32.powi((bits >> 60) as i32 - 8);
        if bits.is_multiple_of(7) { -0.0 } else { ((bits & 0xff_ffff) as f32 / 8_388_608.0 - 1.0) * scale }
    };
    let absent = |parameter: usize| mix(u64::from(microbatch) ^ parameter as u64 * 77).is_multiple_of(4);
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

type Reduced = (Vec<u32>, Vec<u64>, Vec<u8>, Vec<u64>);

/// Reduces a step of `count` microbatches computed by members with these shares; `arrival` keys the order in which
/// their messages come.
fn reduce(count: u32, shares: &[u32], layout: &[std::ops::Range<usize>], arrival: u64) -> Reduced {
    let members: Vec<_> =
        ranges(shares, count).into_iter().enumerate().map(|(i, range)| (MemberId(i as u64), range)).collect();
    let elements = layout.last().map_or(0, |range| range.end);
    let mut reducer = Reducer::new(KEY, count, &members, elements);
    let mut facts = Vec::new();
    let mut slices = Vec::new();
    for (member, range) in &members {
        let mut accumulator = Accumulator::new(layout.to_vec());
        accumulator.begin_step(count);
        for microbatch in range.clone() {
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
fn the_data_of_these_tests_tell_orders_apart() {
    // The same microbatches in a running sum, in order, and backwards: other bits than the tree's.
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
    let members = [(MemberId(1), 0..2), (MemberId(2), 2..4)];
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
}
