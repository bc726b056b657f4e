//! Load goes up and down, replicas take their time, and the fleet follows.

use autoscaler::policy::IdleAfter;

use crate::world::{World, policy, secs};

#[test]
fn replicas_follow_steps_of_the_load_up_and_down() {
    let mut world = World::new(policy(0, 20));
    world.run(30, 0.0);
    world.run(1500, 50.0);
    assert_eq!(world.ready(), 1, "50/s fit into one");
    let mut worst = 0.0f64;
    for _ in 0..300 {
        world.tick(500.0);
        worst = worst.max(world.queue);
    }
    assert!((6..=10).contains(&world.ready()), "500/s: {}", world.ready());
    // The step comes without warning: nothing can help before one cold start, and then it must be soon over.
    assert!(world.queue < 1.0 && worst <= 450.0 * 36.0, "{worst}");
    world.run(2400, 100.0);
    assert!((2..=3).contains(&world.ready()), "100/s: {}", world.ready());
    assert!(world.queue < 1.0);
    world.run(700, 0.0);
    assert_eq!(world.wanted(), 0);
}

#[test]
fn the_fleet_is_not_overdriven_by_a_step() {
    let mut world = World::with_ready(policy(1, 100), 2);
    world.run(300, 100.0);
    let mut most = 0;
    for _ in 0..600 {
        most = most.max(world.tick(600.0).to);
    }
    assert!((7..=24).contains(&most), "{most}");
    assert!(world.queue < 1.0);
}

#[test]
fn a_noisy_day_changes_the_fleet_seldom() {
    let mut world = World::with_ready(policy(1, 40), 4);
    world.cold_start = secs(60);
    let mut late = 0;
    let mut noise = 7u64;
    for second in 0..6 * 3600u32 {
        let day = 400.0 - 300.0 * (f64::from(second) / 21_600.0 * std::f64::consts::TAU).cos();
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let jitter = ((noise >> 33) as f64 / f64::from(1u32 << 31) - 0.5) * 2.0;
        world.tick(day + jitter * day.sqrt() * 1.7);
        late += u32::from(world.queue > 20.0);
    }
    assert!(late < 60, "seconds with a queue beyond 200 ms: {late}");
    assert!(world.writes.len() < 60, "{} changes", world.writes.len());
    let reversals = world.writes.windows(2).filter(|w| (w[0].2 > w[0].1) != (w[1].2 > w[1].1)).count();
    assert!(reversals <= 8, "{reversals} reversals");
}

#[test]
fn the_demo_rises_under_a_burst_and_falls_to_zero_after_it() {
    let mut world = World::new(policy(0, 4));
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.cold_start = secs(2);
    world.run(10, 0.0);
    world.tick(1.0);
    world.run(3, 0.0);
    assert_eq!(world.ready(), 1);
    world.run(30, 330.0);
    assert_eq!(world.ready(), 4);
    world.run(40, 0.0);
    assert_eq!(world.wanted(), 0);
}
