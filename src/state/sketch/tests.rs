//! What all sketches promise: the same bytes for the same values, and no panic for any bytes.

use super::{BitmapSketch, HllSketch, QuantileSketch, Sketch, SketchError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// The samples were written by the first release that had sketches.
#[test]
fn version_1_of_the_formats_never_changes() {
    let mut hll = HllSketch::try_new(4).unwrap();
    let sample = |hll: &HllSketch| hex(&hll.to_bytes());
    assert_eq!(sample(&hll), "3166736b010104003004657a");
    hll.insert(0);
    hll.insert(u64::MAX);
    hll.insert(0x8000_0000_0000_0001);
    assert_eq!(sample(&hll), "3166736b010104002700000026000080c1ffffffd3437fa1");
    hll.insert(0x1234_5678_9abc_def0);
    assert_eq!(sample(&hll), "3166736b01010401fd00000000003c0000000004263007fe");

    let mut quantile = QuantileSketch::try_new(16).unwrap();
    let sample = |quantile: &QuantileSketch| hex(&quantile.to_bytes());
    assert_eq!(sample(&quantile), "3166736b0201100000002d0000000000000000f8d01f77");
    for value in [1.0, 1.0, 1.5, -2.25, 0.0, 1e300] {
        quantile.insert(value).unwrap();
    }
    assert_eq!(
        sample(&quantile),
        "3166736b0201100000002d060000000000000000000000000002c09c7500883ce4377ea18010\
         019180080180ff07024001ffe307016384f25d"
    );
    (0..64).for_each(|value| quantile.insert(f64::from(value)).unwrap());
    assert_eq!(
        sample(&quantile),
        "3166736b02011000000033460000000000000000000000000002c09c7500883ce4377e812001\
         811002fe0f0301010101010101020102010401040108010801100110bd0f012544ff20"
    );

    let mut bitmap = BitmapSketch::new();
    let sample = |bitmap: &BitmapSketch| hex(&bitmap.to_bytes());
    assert_eq!(sample(&bitmap), "3166736b03010000000000000000be341995");
    for value in [1, 70_000, -1] {
        bitmap.insert(value);
    }
    assert_eq!(
        sample(&bitmap),
        "3166736b03010200000000000000000000003a30000002000000000000000100000018000000\
         1a00000001007011ffffffff3a30000001000000ffff000010000000ffff4acfffb4"
    );
    (0..1000).for_each(|value| bitmap.insert(value));
    assert_eq!(
        sample(&bitmap),
        "3166736b03010200000000000000000000003b300100010000e7030100000001000000e70370\
         11ffffffff3a30000001000000ffff000010000000ffff39adbfee"
    );
}

#[test]
fn counts_of_values_are_as_exact_as_is_said() {
    for lg_k in [6, 10, 12, 14, 18] {
        let standard = 1.04 / f64::from(1_u32 << lg_k).sqrt();
        let mut hll = HllSketch::try_new(lg_k).unwrap();
        let mut next = 0;
        for count in [0_u64, 1, 2, 10, 100, 768, 1000, 3000, 10_000, 100_000, 1_000_000] {
            (next..count).for_each(|value| hll.insert(hash(value)));
            next = count;
            let found = hll.estimate();
            if count <= ((3 << lg_k) / 16).min(4096) {
                assert_eq!(found, count, "lg_k {lg_k}");
            }
            let error = (found as f64 - count as f64).abs() / count.max(1) as f64;
            assert!(error <= 3.0 * standard, "lg_k {lg_k}: {found} of {count}");
        }
    }
}

#[test]
fn the_mean_estimate_is_not_off_and_its_spread_is_the_standard_error() {
    const RUNS: u64 = 400;
    for count in [400_u64, 1000, 2560, 5000, 20_000] {
        let errors: Vec<f64> = (0..RUNS)
            .map(|run| {
                let hll = hll_of(10, (0..count).map(|value| run << 32 | value));
                hll.estimate() as f64 / count as f64 - 1.0
            })
            .collect();
        let standard = 1.04 / 32.0;
        let mean = errors.iter().sum::<f64>() / RUNS as f64;
        let spread = (errors.iter().map(|error| error * error).sum::<f64>() / RUNS as f64).sqrt();
        assert!(mean.abs() < standard / 5.0, "{count}: off by {mean}");
        assert!(spread < standard * 1.1, "{count}: spread {spread}");
    }
}

#[test]
fn values_that_are_in_already_change_nothing() {
    let mut hll = hll_of(12, 0..5000);
    let before = hll.clone();
    (0..5000).for_each(|value| hll.insert(hash(value)));
    assert_eq!(hll, before);
}

#[test]
fn quantiles_are_as_exact_as_the_sketch_says() {
    for (name, values) in distributions() {
        let sketch = quantiles_of(QuantileSketch::K_DEFAULT, &values);
        let error = sketch.relative_error();
        assert!(error < 0.008, "{name}: {error}");
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        for percent in 0..=100_usize {
            let rank = (percent * sorted.len()).div_ceil(100).clamp(1, sorted.len());
            let exact = sorted[rank - 1];
            let q = percent as f64 / 100.0;
            let found = sketch.estimate(q).unwrap().unwrap();
            let off = (found - exact).abs();
            assert!(off <= error * exact.abs() * 1.000_001, "{name} {q}: {found} for {exact}");
        }
    }
}

#[test]
fn a_sketch_with_few_buckets_says_how_far_it_is_off() {
    let values: Vec<f64> = (0..600).map(|power| 10_f64.powi(power - 300)).collect();
    let sketch = quantiles_of(16, &values);
    let error = sketch.relative_error();
    assert!(error > 0.9 && error <= 1.0, "{error}");
    for (index, exact) in values.iter().enumerate() {
        let q = (index + 1) as f64 / values.len() as f64;
        let found = sketch.estimate(q).unwrap().unwrap();
        assert!((found - exact).abs() <= error * exact * 1.000_001, "{q}: {found} for {exact}");
    }
}

#[test]
fn odd_numbers_have_their_place() {
    let mut sketch = QuantileSketch::try_new(16).unwrap();
    assert_eq!(sketch.estimate(0.5), Ok(None));
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, f64::MAX, 5e-324] {
        sketch.insert(value).unwrap();
    }
    assert_eq!(sketch.count(), 6);
    let at = |q| sketch.estimate(q).unwrap().unwrap();
    let ends = [at(0.0), at(0.5), at(1.0)].map(f64::to_bits);
    assert_eq!(ends, [f64::NEG_INFINITY, 0.0, f64::INFINITY].map(f64::to_bits), "0 has no sign");
    for q in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(sketch.estimate(q), Err(SketchError::Rank { .. })));
    }
    let read = QuantileSketch::from_bytes(&sketch.to_bytes()).unwrap();
    assert_eq!(read, sketch);
}

#[test]
fn a_quantile_is_the_value_at_its_rank() {
    let mut sketch = QuantileSketch::try_new(16).unwrap();
    (1..=100).for_each(|_| sketch.insert(7.0).unwrap());
    assert_eq!(sketch.estimate(0.3), Ok(Some(7.0)), "never outside the values");
    let mut sketch = QuantileSketch::try_new(QuantileSketch::K_DEFAULT).unwrap();
    (1..=100).for_each(|value| sketch.insert(f64::from(value)).unwrap());
    let at = |q| sketch.estimate(q).unwrap().unwrap().round();
    assert_eq!((at(0.0), at(0.01), at(0.011), at(0.07)), (1.0, 1.0, 2.0, 7.0));
    assert_eq!((at(0.5), at(0.51), at(0.99), at(1.0)), (50.0, 51.0, 99.0, 100.0));
}

#[test]
fn counts_never_wrap() {
    let mut sketch = QuantileSketch::try_new(16).unwrap();
    sketch.insert(1.0).unwrap();
    for _ in 0..63 {
        sketch.merge(&sketch.clone()).unwrap();
    }
    let before = sketch.clone();
    assert_eq!(sketch.merge(&before), Err(SketchError::Full));
    assert_eq!(sketch, before);
    assert_eq!(QuantileSketch::from_bytes(&sketch.to_bytes()), Ok(before));
}

#[test]
fn sets_of_integers_combine() {
    let mut both = bitmap_of(-10..100_000);
    both.intersect(&bitmap_of(99_990..300_000));
    assert_eq!(both, bitmap_of(99_990..100_000));
    let mut rest = bitmap_of(-10..100_000);
    rest.subtract(&bitmap_of(0..100_000));
    assert_eq!(rest.count(), 10);
    assert_eq!(rest.to_bytes(), bitmap_of(-10..0).to_bytes());
    rest.subtract(&bitmap_of(-10..0));
    assert!(rest.is_empty());
    assert_eq!(rest.to_bytes(), BitmapSketch::new().to_bytes());
}

#[test]
fn the_form_of_a_set_does_not_tell_its_history() {
    // Three values as one run take as many bytes as an array: a tie.
    for count in [1, 2, 3, 4, 5, 4095, 4096, 4097, 65_536] {
        let values = move || (0..count).map(move |value| value * 11 % count);
        let grown = bitmap_of(values());
        let mut read = BitmapSketch::from_bytes(&grown.to_bytes()).unwrap();
        assert_eq!(read.to_bytes(), grown.to_bytes(), "{count}");
        values().for_each(|value| read.insert(value));
        assert_eq!(read.to_bytes(), grown.to_bytes(), "{count}");
        let runs = |values| BitmapSketch::from_bytes(&bitmap_of(values).to_bytes()).unwrap();
        let mut shrunk = runs(0..count + 70_000);
        shrunk.intersect(&grown);
        assert_eq!(shrunk.to_bytes(), grown.to_bytes(), "{count}");
        let mut shrunk = runs(0..count + 70_000);
        shrunk.subtract(&runs(count..count + 70_000));
        assert_eq!(shrunk.to_bytes(), grown.to_bytes(), "{count}");
    }
}

#[test]
fn an_empty_sketch_changes_nothing_and_the_coarser_parameters_hold() {
    let mut fine = HllSketch::try_new(14).unwrap();
    let mut coarse = HllSketch::try_new(5).unwrap();
    fine.merge(&coarse).unwrap();
    fine = HllSketch::try_new(14).unwrap();
    (0..50).for_each(|value| fine.insert(hash(value)));
    let before = fine.clone();
    fine.merge(&coarse).unwrap();
    assert_eq!(fine, before);
    (0..50).for_each(|value| coarse.insert(hash(value)));
    fine.merge(&coarse).unwrap();
    assert_eq!(fine, coarse);

    let mut fine = QuantileSketch::try_new(64).unwrap();
    let mut coarse = QuantileSketch::try_new(16).unwrap();
    fine.insert(1.0).unwrap();
    let before = fine.clone();
    fine.merge(&coarse).unwrap();
    assert_eq!(fine, before);
    coarse.insert(2.0).unwrap();
    fine.merge(&coarse).unwrap();
    coarse.insert(1.0).unwrap();
    assert_eq!(fine, coarse);
}

#[test]
fn parameters_have_their_limits() {
    for lg_k in [3, 19, 255] {
        let error = HllSketch::try_new(lg_k).unwrap_err().to_string();
        assert_eq!(error, format!("lg_k must be a constant from 4 to 18, and is {lg_k}"));
    }
    for k in [15, 65_537] {
        let error = QuantileSketch::try_new(k).unwrap_err().to_string();
        assert_eq!(error, format!("k must be a constant from 16 to 65536, and is {k}"));
    }
}

#[test]
fn sketches_take_the_bytes_that_are_said() {
    let hll = |lg_k, count| hll_of(lg_k, 0..count).to_bytes().len();
    assert_eq!((hll(12, 0), hll(12, 10), hll(12, 768), hll(12, 1000)), (12, 52, 3084, 3084));
    assert_eq!((hll(14, 10_000), hll(18, 4096), hll(18, 5000)), (12_300, 16_396, 196_620));
    for (name, values) in distributions() {
        let sketch = quantiles_of(QuantileSketch::K_DEFAULT, &values);
        assert!(sketch.to_bytes().len() < 6000, "{name}");
    }
    let bitmap = |values: &mut dyn Iterator<Item = i64>| bitmap_of(values).to_bytes().len();
    assert_eq!(bitmap(&mut (0..1_000_000)), 252);
    assert_eq!(bitmap(&mut (0..1_000_000).step_by(3)), 131_230);
    assert_eq!(bitmap(&mut (0..1_000_000).step_by(100)), 20_158);
    assert_eq!(bitmap(&mut (0..10_000).map(|value| hash(value).cast_signed())), 220_018);
}

#[test]
fn what_contradicts_itself_is_an_error_behind_a_right_checksum() {
    let changed = |sample: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let bytes = &samples()[sample];
        let mut payload = bytes[6..bytes.len() - 4].to_vec();
        change(&mut payload);
        let bytes = framed(bytes[4], &payload);
        let error = match bytes[4] {
            1 => HllSketch::from_bytes(&bytes).unwrap_err(),
            2 => QuantileSketch::from_bytes(&bytes).unwrap_err(),
            _ => BitmapSketch::from_bytes(&bytes).unwrap_err(),
        };
        assert!(matches!(error, SketchError::Corrupt { .. }), "{error}");
    };
    for sample in 0..4 {
        changed(sample, &|payload| payload.push(0));
        changed(sample, &|payload| payload.truncate(payload.len() - 1));
    }
    for lg_k in [3, 19] {
        changed(0, &|payload| payload[0] = lg_k);
    }
    changed(0, &|payload| payload[1] = 2);
    changed(0, &|payload| payload[2] &= 0xc0); // no rank
    changed(0, &|payload| payload[2] |= 0x3f); // a rank too high
    changed(0, &|payload| payload.copy_within(6..10, 2)); // a coupon twice
    changed(0, &|payload| payload[0] = 4); // more coupons than such a sketch keeps
    changed(1, &|payload| payload[2] |= 0x3f);
    changed(2, &|payload| payload[0] = 15); // k
    changed(2, &|payload| payload[0] = 32); // more buckets than that
    changed(2, &|payload| payload[4] = 44); // bits cut
    changed(2, &|payload| payload[5] += 1); // how many values
    changed(2, &|payload| payload[5..13].fill(0));
    changed(2, &|payload| payload[13..21].fill(0xff)); // NaN
    changed(2, &|payload| payload[20] ^= 0x80); // the smallest value is not in the first bucket
    changed(2, &|payload| payload[21..29].fill(0)); // nor the largest in the last one
    changed(3, &|payload| payload[0] += 1);
    changed(3, &|payload| {
        payload[0] += 1; // one bitmap more, and it is empty
        payload.extend([9, 0, 0, 0, 0x3a, 0x30, 0, 0, 0, 0, 0, 0]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// However values are cut into parts, and in whatever order and shape the parts are merged.
    #[test]
    fn an_hll_is_a_function_of_its_set(
        (values, parts) in parted(0..1500_u64), lg_k in 4_u8..=11, finer in 0_u8..=3,
    ) {
        let mut whole = hll_of(lg_k, values.iter().copied());
        let of = |lg_k, part: &[u64]| hll_of(lg_k, part.iter().copied());
        let mut sketches: Vec<HllSketch> = parts.iter().map(|part| of(lg_k, part)).collect();
        prop_assert_eq!(merged(&sketches).to_bytes(), whole.to_bytes());
        prop_assert_eq!(merged_as_tree(&sketches).to_bytes(), whole.to_bytes());
        // Of a finer precision, all but one.
        for (part, sketch) in parts.iter().zip(&mut sketches).skip(1) {
            *sketch = of(lg_k + finer, part);
        }
        if !parts[0].is_empty() {
            prop_assert_eq!(merged(&sketches).to_bytes(), whole.to_bytes());
            prop_assert_eq!(merged_as_tree(&sketches).to_bytes(), whole.to_bytes());
        }
        let before = whole.clone();
        whole.merge(&before).unwrap();
        prop_assert_eq!(whole, before);
    }

    #[test]
    fn a_quantile_sketch_is_a_function_of_its_multiset(
        (values, parts) in parted(prop_oneof![
            any::<f64>(), -1e3..1e3_f64, 1.0..2.0_f64, (0..9_i8).prop_map(f64::from),
        ]),
        k in 16_u32..80, more in 0_u32..100,
    ) {
        let whole = quantiles_of(k, &values);
        let mut sketches: Vec<QuantileSketch> =
            parts.iter().map(|part| quantiles_of(k, part)).collect();
        prop_assert_eq!(merged(&sketches).to_bytes(), whole.to_bytes());
        prop_assert_eq!(merged_as_tree(&sketches).to_bytes(), whole.to_bytes());
        for (part, sketch) in parts.iter().zip(&mut sketches).skip(1) {
            *sketch = quantiles_of(k + more, part);
        }
        if !sketches[0].is_empty() {
            prop_assert_eq!(merged(&sketches).to_bytes(), whole.to_bytes());
            prop_assert_eq!(merged_as_tree(&sketches).to_bytes(), whole.to_bytes());
        }
    }

    #[test]
    fn a_bitmap_is_a_function_of_its_set(
        (values, parts) in parted(prop_oneof![any::<i64>(), -9..9_i64, 0..70_000_i64, 0..500_i64]),
    ) {
        let mut whole = bitmap_of(values.iter().copied());
        let sketches: Vec<BitmapSketch> =
            parts.iter().map(|part| bitmap_of(part.iter().copied())).collect();
        prop_assert_eq!(merged(&sketches).to_bytes(), whole.to_bytes());
        prop_assert_eq!(merged_as_tree(&sketches).to_bytes(), whole.to_bytes());
        let distinct: std::collections::BTreeSet<&i64> = values.iter().collect();
        prop_assert_eq!(whole.count(), distinct.len() as u64);
        let before = whole.to_bytes();
        whole.merge(&whole.clone()).unwrap();
        prop_assert_eq!(whole.to_bytes(), before);
    }

    /// Any bytes behind a right frame: the checksum is not what saves us.
    #[test]
    fn any_payload_is_a_sketch_or_an_error(payload in vec(any::<u8>(), 0..200)) {
        any_bytes(&payload);
        for kind in 1..=3 {
            any_bytes(&framed(kind, &payload));
        }
    }

    #[test]
    fn a_changed_payload_is_a_sketch_or_an_error(
        kind in 0..4_usize, at in any::<Index>(), byte in any::<u8>(), cut in any::<Index>(),
        is_cut in any::<bool>(),
    ) {
        let sample = &samples()[kind];
        let mut payload = sample[6..sample.len() - 4].to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        if is_cut {
            payload.truncate(cut.index(payload.len()));
        }
        any_bytes(&framed(sample[4], &payload));
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_an_error(
        kind in 0..4_usize, at in any::<Index>(), bit in 0..8, cut in any::<Index>(),
    ) {
        let sample = &samples()[kind];
        let mut flipped = sample.clone();
        let at = at.index(sample.len());
        flipped[at] ^= 1_u8 << bit;
        let cut = &sample[..cut.index(sample.len())];
        for bytes in [flipped.as_slice(), cut] {
            prop_assert!(HllSketch::from_bytes(bytes).is_err());
            prop_assert!(QuantileSketch::from_bytes(bytes).is_err());
            prop_assert!(BitmapSketch::from_bytes(bytes).is_err());
        }
    }
}

/// Reads bytes as every kind, and uses what could be read.
fn any_bytes(bytes: &[u8]) {
    if let Ok(mut hll) = HllSketch::from_bytes(bytes) {
        assert_eq!(hll.to_bytes(), bytes);
        assert_eq!(hll.estimate() == 0, hll.is_empty());
        hll.insert(hash(1));
        hll.merge(&HllSketch::from_bytes(&samples()[0]).unwrap()).unwrap();
    }
    if let Ok(mut quantile) = QuantileSketch::from_bytes(bytes) {
        assert_eq!(QuantileSketch::from_bytes(&quantile.to_bytes()), Ok(quantile.clone()));
        for q in [0.0, 0.3, 0.5, 1.0] {
            let value = quantile.estimate(q).unwrap();
            assert!(value.is_none_or(|value| !value.is_nan()));
        }
        assert!(quantile.relative_error() <= 1.0);
        let other = QuantileSketch::from_bytes(&samples()[2]).unwrap();
        assert!(matches!(quantile.merge(&other), Ok(()) | Err(SketchError::Full)));
    }
    if let Ok(mut bitmap) = BitmapSketch::from_bytes(bytes) {
        assert_eq!(BitmapSketch::from_bytes(&bitmap.to_bytes()), Ok(bitmap.clone()));
        assert_eq!(bitmap.count() == 0, bitmap.is_empty());
        bitmap.insert(9);
        bitmap.merge(&BitmapSketch::from_bytes(&samples()[3]).unwrap()).unwrap();
    }
}

/// Two HLLs, in both forms, a quantile sketch and a bitmap.
fn samples() -> [Vec<u8>; 4] {
    let hll = |count| hll_of(6, 0..count).to_bytes();
    let values: Vec<f64> = (-20..20).map(|value| f64::from(value) * 1.7).collect();
    let quantile = quantiles_of(64, &values);
    let some = (0..300).map(|value| value * value * 50 % 200_000 - 7);
    let bitmap = bitmap_of(some.chain(1_000_000..1_000_030));
    [hll(10), hll(1000), quantile.to_bytes(), bitmap.to_bytes()]
}

fn hll_of(lg_k: u8, values: impl IntoIterator<Item = u64>) -> HllSketch {
    let mut hll = HllSketch::try_new(lg_k).unwrap();
    values.into_iter().for_each(|value| hll.insert(hash(value)));
    hll
}

fn quantiles_of(k: u32, values: &[f64]) -> QuantileSketch {
    let mut sketch = QuantileSketch::try_new(k).unwrap();
    for value in values {
        sketch.insert(*value).unwrap();
    }
    sketch
}

fn bitmap_of(values: impl IntoIterator<Item = i64>) -> BitmapSketch {
    let mut bitmap = BitmapSketch::new();
    values.into_iter().for_each(|value| bitmap.insert(value));
    bitmap
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [b"1fsk".as_slice(), &[kind, 1], payload].concat();
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Values, and the same values cut into one to six parts that are then shuffled.
fn parted<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = (Vec<T>, Vec<Vec<T>>)> {
    let placed = vec((value, 0..6_usize), 0..400);
    (placed, 1..=6_usize).prop_map(|(placed, count)| {
        let mut parts = vec![Vec::new(); count];
        for (value, part) in &placed {
            parts[part % count].push(value.clone());
        }
        (placed.into_iter().map(|(value, _)| value).collect(), parts)
    })
}

/// From the first to the last, through their stored form.
fn merged<S: Sketch>(sketches: &[S]) -> S {
    let mut all = sketches[0].clone();
    for sketch in &sketches[1..] {
        all.merge(&S::from_bytes(&sketch.to_bytes()).unwrap()).unwrap();
        all = S::from_bytes(&all.to_bytes()).unwrap();
    }
    all
}

/// The halves first, and the second half into the first.
fn merged_as_tree<S: Sketch>(sketches: &[S]) -> S {
    if let [one] = sketches {
        return one.clone();
    }
    let (left, right) = sketches.split_at(sketches.len() / 2);
    let mut right = merged_as_tree(right);
    right.merge(&merged_as_tree(left)).unwrap();
    right
}

fn distributions() -> Vec<(&'static str, Vec<f64>)> {
    const COUNT: u64 = 100_000;
    let uniform = |value: u64| (hash(value) >> 11) as f64 / (1_u64 << 53) as f64;
    let normal = move |value: u64| {
        let radius = (-2.0 * (1.0 - uniform(value)).ln()).sqrt();
        radius * (std::f64::consts::TAU * uniform(value + COUNT)).cos()
    };
    let made = |make: &dyn Fn(u64) -> f64| (0..COUNT).map(make).collect::<Vec<f64>>();
    vec![
        ("ten", (0..10).map(f64::from).collect()),
        ("thousand", (0..1000).map(uniform).collect()),
        ("uniform", made(&uniform)),
        ("normal", made(&normal)),
        ("latencies", made(&|value| (3.0 + 1.5 * normal(value)).exp())),
        ("pareto", made(&|value| (1.0 - uniform(value)).powf(-1.0))),
        ("whole", made(&|value| (hash(value) % 5000) as f64 - 2500.0)),
    ]
}

/// `SplitMix64`: bits that look random.
fn hash(value: u64) -> u64 {
    let mut bits = value.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
