//! The numbers that sizes are made of, and operands of these sizes where there can be any.

use requant_kernels::{
    Cpu, KernelError,
    epilogue::{Output, Requantize},
    par::{Parallel, Serial},
    sign::Sign,
};

/// Whether a kernel ran or was refused.
pub(crate) type Outcome = Result<(), KernelError>;

/// Elements of the largest operand that is really made.
pub(crate) const MOST: usize = 1 << 14;

/// Sizes from here on stand for what no memory could hold; between [`MOST`] and this, tables of a valid shape may be
/// large, which would only make the calls slow.
const ABSURD: usize = 1 << 36;

/// Numbers read from bytes: small ones, and some that are 0, powers of two or their neighbours, or the largest of all.
pub(crate) struct Numbers<'a> {
    bytes: &'a [u8],
    /// How many of 32 numbers are not small ones: most kernels run only where all are.
    wild: u8,
}

impl<'a> Numbers<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut numbers = Self { bytes, wild: 0 };
        numbers.wild = [0, 1, 4, 16][usize::from(numbers.byte() % 4)];
        numbers
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.bytes {
            [first, rest @ ..] => {
                self.bytes = rest;
                *first
            }
            [] => 0xff,
        }
    }

    pub(crate) fn any(&mut self) -> usize {
        let byte = self.byte();
        if byte % 32 >= self.wild {
            return usize::from(byte / 32 % 4) + 1;
        }
        let byte = self.byte();
        let (form, value) = (byte % 8, byte / 8);
        let power = |low: u8| 1usize << (value * 2 + low % 2);
        match form {
            0 => 0,
            1 | 2 => usize::from(self.byte()),
            3 | 4 => power(self.byte()),
            5 => power(self.byte()) - 1,
            6 => power(self.byte()) + 1,
            _ => usize::MAX - usize::from(value),
        }
    }

    pub(crate) fn pair(&mut self) -> [usize; 2] {
        [self.any(), self.any()]
    }

    pub(crate) fn four(&mut self) -> [usize; 4] {
        [self.any(), self.any(), self.any(), self.any()]
    }

    pub(crate) fn list(&mut self) -> Vec<usize> {
        (0..self.byte() % 6).map(|_| self.any()).collect()
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    pub(crate) fn sign(&mut self) -> Sign {
        if self.flag() { Sign::S8 } else { Sign::U8 }
    }

    pub(crate) fn cpu(&mut self) -> Cpu {
        let (isas, byte) = (Cpu::available(), usize::from(self.byte()));
        let cpu = Cpu::with_isa(isas[byte % isas.len()]).expect("an available ISA");
        if byte < 128 { cpu } else { cpu.with_modelled_tiles().unwrap_or(cpu) }
    }

    pub(crate) fn output(&mut self) -> Output {
        match self.byte() % 3 {
            0 => Output::I32,
            1 => Output::F32 { scales: vec![1.0] },
            _ => Output::Quant8 {
                sign: Sign::U8,
                requantize: Requantize::HalfEven(vec![0.5]),
                zero_point: 3,
                min: 0,
                max: 255,
                residual: None,
            },
        }
    }

    pub(crate) fn threads(&mut self) -> Threads {
        Threads(if self.flag() { 1 } else { self.any() })
    }

    /// A list of as many elements as a tensor of these dimensions, if that is a number that can be; else too few.
    pub(crate) fn operand<T: Clone>(&mut self, dims: &[usize], value: T) -> Vec<T> {
        vec![value; product(dims).filter(|&len| len <= MOST).unwrap_or(0)]
    }
}

/// Says to have any number of threads, and is the calling one.
pub(crate) struct Threads(pub(crate) usize);

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        // One worker takes all tasks that are left, and the others would find none.
        Serial.for_each(tasks.min(2), f);
    }
}

pub(crate) fn product(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

/// Elements in `rows` rows of `cols`, `ld` apart, if they can be made.
pub(crate) fn span(rows: usize, cols: usize, ld: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(ld)?.checked_add(cols).filter(|&len| len <= MOST)
}

/// Whether a tensor of these dimensions is neither one that can be made here nor an absurd one.
pub(crate) fn is_between(dims: &[usize]) -> bool {
    product(dims).is_some_and(|len| (MOST + 1..ABSURD).contains(&len))
}

/// What is not tried; it counts as refused.
pub(crate) fn skipped() -> Outcome {
    Err(KernelError::Overflow { what: "the patience of this test" })
}

/// Runs on buffers of the given lengths. If these can be made the run must succeed, else be refused.
pub(crate) fn run_with(
    lens: &[usize],
    run: impl FnOnce(&dyn Fn(usize) -> usize) -> Outcome,
) -> Outcome {
    let all = lens.iter().all(|&len| len <= MOST);
    let outcome = run(&|i| if all { lens[i] } else { 0 });
    assert_eq!(outcome.is_ok(), all, "{outcome:?}, with operands of {lens:?}");
    outcome
}

/// The same with `scratch` elements of scratch, or much less if these cannot be made: to compute nothing, it is enough.
pub(crate) fn run_with_scratch(
    lens: [usize; 2],
    scratch: usize,
    run: impl FnOnce(&dyn Fn(usize) -> usize, usize) -> Outcome,
) -> Outcome {
    if scratch > 64 * MOST && lens.contains(&0) {
        return skipped();
    }
    let scratch_too = [lens[0], lens[1], scratch / 64];
    run_with(&scratch_too, |len| run(len, if len(2) > 0 || scratch < 64 { scratch } else { 0 }))
}

/// Calls `f` with an output slice of `len` elements of the type that `output` says.
macro_rules! with_output {
    ($output:expr, $len:expr, |$slice:ident| $call:expr) => {
        match $output {
            Output::I32 => {
                let mut y = vec![0i32; $len];
                let $slice = y[..].as_mut().into();
                $call
            }
            Output::F32 { .. } => {
                let mut y = vec![0f32; $len];
                let $slice = y[..].as_mut().into();
                $call
            }
            Output::Quant8 { .. } => {
                let mut y = vec![0u8; $len];
                let $slice = y[..].as_mut().into();
                $call
            }
        }
    };
}
pub(crate) use with_output;
