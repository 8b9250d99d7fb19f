//! Both machines of an exchange, joined by Links: each byte decides what happens next.

pub mod world;

/// Events before everything comes to its end.
const STEPS: usize = 2000;

/// A visitor or two, their Gateway, an Agent and its service, and what happens to them.
pub fn check(data: &[u8]) {
    world::World::new(world::Dice::of(data)).run(STEPS);
}
