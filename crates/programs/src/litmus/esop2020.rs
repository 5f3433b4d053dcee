//! Tests of Simner et al., "ARMv8-A system semantics: instruction fetch in relaxed architectures", ESOP 2020.
//!
//! The paper gives verdicts for machines without DIC and IDC. An outcome that is forbidden there is forbidden
//! everywhere, because either bit only makes a machine stronger. An outcome that is allowed there may be forbidden on
//! other machines, and nothing is published about that.

use crate::litmus::a64::Fence::{DmbIsh, DmbSy, DsbIsh, Isb};
use crate::litmus::test::Code::{F, G};
use crate::litmus::test::Data::{X, Y};
use crate::litmus::test::Instruction::{
    Call, Clean, CleanDependent, Control, Fence, Fetch, Invalidate, Load, Read, Store, Write,
};
use crate::litmus::test::Published::{Allowed, Forbidden, Unpublished};
use crate::litmus::test::Term::{Is, Not};
use crate::litmus::test::{Instruction, Published, Source, Term, Test};

const A: [Published; 3] = [Allowed, Unpublished, Unpublished];
const F_: [Published; 3] = [Forbidden; 3];

const fn test(
    name: &'static str,
    threads: &'static [&'static [Instruction]],
    exists: &'static [Term],
    published: [Published; 3],
) -> Test {
    Test { name, source: Source::Esop2020, threads, exists, published }
}

/// Tests of the paper's table, in its order.
pub const TESTS: [Test; 16] = [
    test("CoFF", &[&[Write(F, 1)], &[Call(F), Call(F)]], &[Is(1, 0, 1), Is(1, 1, 0)], A),
    test("CoFR", &[&[Write(F, 1)], &[Call(F), Read(F)]], &[Is(1, 0, 1), Is(1, 1, 0)], F_),
    test("CoRF+ctrl-isb", &[&[Write(F, 1)], &[Read(F), Control, Fence(Isb), Call(F)]], &[Is(1, 0, 1), Is(1, 1, 0)], A),
    test("SM", &[&[Write(F, 1), Call(F)]], &[Is(0, 0, 0)], A),
    test(
        "SM+cachesync-isb",
        &[&[Write(F, 1), Clean(F), Fence(DsbIsh), Invalidate(F), Fence(DsbIsh), Fence(Isb), Call(F)]],
        &[Is(0, 0, 0)],
        F_,
    ),
    test(
        "MP.RF+dmb+ctrl-isb",
        &[&[Write(F, 1), Fence(DmbIsh), Store(X, 1)], &[Load(X), Control, Fence(Isb), Call(F)]],
        &[Is(1, 0, 1), Is(1, 1, 0)],
        A,
    ),
    test(
        "MP.RF+cachesync+ctrl-isb",
        &[
            &[Write(F, 1), Clean(F), Fence(DsbIsh), Invalidate(F), Fence(DsbIsh), Store(X, 1)],
            &[Load(X), Control, Fence(Isb), Call(F)],
        ],
        &[Is(1, 0, 1), Is(1, 1, 0)],
        F_,
    ),
    test(
        "MP.FR+dmb+fpo-fe",
        &[&[Store(X, 1), Fence(DmbIsh), Write(F, 1)], &[Call(F), Load(X)]],
        &[Is(1, 0, 1), Is(1, 1, 0)],
        F_,
    ),
    test(
        "MP.FF+dmb+fpo",
        &[&[Write(F, 1), Fence(DmbIsh), Write(G, 1)], &[Call(G), Call(F)]],
        &[Is(1, 0, 1), Is(1, 1, 0)],
        A,
    ),
    test(
        "MP.FF+cachesync+fpo",
        &[&[Write(F, 1), Clean(F), Fence(DsbIsh), Invalidate(F), Fence(DsbIsh), Write(G, 1)], &[Call(G), Call(F)]],
        &[Is(1, 0, 1), Is(1, 1, 0)],
        F_,
    ),
    test(
        "ISA2.F+dc+ic+ctrl-isb",
        &[
            &[Write(F, 1), Clean(F), Fence(DsbIsh), Store(X, 1)],
            &[Load(X), Fence(DsbIsh), Invalidate(F), Fence(DsbIsh), Store(Y, 1)],
            &[Load(Y), Control, Fence(Isb), Call(F)],
        ],
        &[Is(1, 0, 1), Is(2, 0, 1), Is(2, 1, 0)],
        F_,
    ),
    test(
        "SM.F+ic",
        &[&[Write(F, 1), Load(X), Control, Fence(Isb), Call(F)], &[Call(F), Invalidate(F), Fence(DsbIsh), Store(X, 1)]],
        &[Is(1, 0, 1), Is(0, 0, 1), Is(0, 1, 0)],
        A,
    ),
    test(
        "FOW",
        &[
            &[Write(F, 1), Write(F, 2), Fence(DsbIsh), Invalidate(F), Fence(DsbIsh), Store(X, 1)],
            &[Load(X), Control, Fence(Isb), Call(F)],
            &[Load(X), Control, Fence(Isb), Call(F)],
        ],
        &[Is(1, 0, 1), Is(1, 1, 1), Is(2, 0, 1), Is(2, 1, 0)],
        A,
    ),
    test(
        "MP.RF+dc+ctrl-isb-isb",
        &[
            &[Write(F, 1), Write(F, 2), Fence(DsbIsh), Clean(F), Fence(DsbIsh), Store(X, 1)],
            &[Load(X), Control, Fence(Isb), Call(F), Fence(Isb), Call(F), Fence(Isb), Call(F)],
        ],
        &[Is(1, 0, 1), Is(1, 1, 2), Is(1, 2, 1), Is(1, 3, 0)],
        A,
    ),
    // The paper has only the name and the verdict. The threads are those of the test of this name that Isla runs. Every
    // version but the last is forbidden: thread 1's version comes after thread 0's, and thread 0 cleans and invalidates
    // it.
    test(
        "MP.R.RF+addr-cachesync+dmb+ctrl-isb",
        &[
            &[Load(Y), Write(F, 1), CleanDependent(F), Fence(DsbIsh), Invalidate(F), Fence(DsbIsh), Store(X, 1)],
            &[Read(F), Write(F, 2), Fence(DmbSy), Store(Y, 1)],
            &[Load(X), Control, Fence(Isb), Fetch(F)],
        ],
        &[Is(0, 0, 1), Is(1, 0, 1), Is(2, 0, 1), Not(2, 1, 2)],
        F_,
    ),
    // The paper has only the name and the verdict. The threads follow the name.
    test(
        "MP.RF+dmb+addr-cachesync",
        &[
            &[Write(F, 1), Fence(DmbIsh), Store(X, 1)],
            &[Load(X), CleanDependent(F), Fence(DsbIsh), Invalidate(F), Fence(DsbIsh), Call(F)],
        ],
        &[Is(1, 0, 1), Is(1, 1, 0)],
        A,
    ),
];
