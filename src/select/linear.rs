//! Dense symmetric matrices of a handful of rows: just what the posterior over steps needs.

/// A square matrix, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Square {
    n: usize,
    data: Vec<f64>,
}

impl Square {
    /// Returns the zero matrix of `n` rows.
    #[must_use]
    pub fn zero(n: usize) -> Self {
        Self { n, data: vec![0.0; n * n] }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n
    }

    /// Says whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Returns row `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.n..(i + 1) * self.n]
    }

    /// Returns the element in row `i` and column `j`.
    #[must_use]
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.n + j]
    }

    /// Adds `value` to the element in row `i` and column `j`.
    pub fn add(&mut self, i: usize, j: usize, value: f64) {
        self.data[i * self.n + j] += value;
    }

    /// Returns `self · x`.
    #[must_use]
    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        (0..self.n).map(|i| dot(self.row(i), x)).collect()
    }

    /// Returns the lower Cholesky factor. A pivot at or below zero, which rounding can make of a
    /// singular covariance, becomes a zero column.
    #[must_use]
    pub fn cholesky(&self) -> Self {
        let n = self.n;
        let mut l = Self::zero(n);
        for j in 0..n {
            let pivot = self.at(j, j) - dot(&l.row(j)[..j], &l.row(j)[..j]);
            if pivot <= 0.0 {
                continue;
            }
            let root = pivot.sqrt();
            l.data[j * n + j] = root;
            for i in j + 1..n {
                let value = self.at(i, j) - dot(&l.row(i)[..j], &l.row(j)[..j]);
                l.data[i * n + j] = value / root;
            }
        }
        l
    }

    /// Returns the natural logarithm of the determinant of this positive definite matrix.
    #[must_use]
    pub fn ln_determinant(&self) -> f64 {
        let l = self.cholesky();
        (0..self.n).map(|i| 2.0 * l.at(i, i).ln()).sum()
    }

    /// Returns the inverse of this symmetric positive definite matrix.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let n = self.n;
        let l = self.cholesky();
        let mut inverse = Self::zero(n);
        let mut x = vec![0.0; n];
        for column in 0..n {
            x.fill(0.0);
            x[column] = 1.0;
            for i in column..n {
                x[i] = (x[i] - dot(&l.row(i)[..i], &x[..i])) / l.at(i, i);
            }
            for i in (0..n).rev() {
                let below: f64 = (i + 1..n).map(|k| l.at(k, i) * x[k]).sum();
                x[i] = (x[i] - below) / l.at(i, i);
            }
            for (i, value) in x.iter().enumerate() {
                inverse.data[i * n + column] = *value;
            }
        }
        inverse
    }
}

/// Returns the inner product.
#[must_use]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::Square;

    #[test]
    fn inverse_times_matrix_is_identity() {
        let mut a = Square::zero(3);
        for (i, row) in [[4.0, 1.0, 0.5], [1.0, 3.0, -0.2], [0.5, -0.2, 2.0]].iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                a.add(i, j, *value);
            }
        }
        let inverse = a.inverse();
        for i in 0..3 {
            let row = a.times(inverse.row(i));
            for (j, value) in row.iter().enumerate() {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 1e-12, "{i} {j} {value}");
            }
        }
    }

    #[test]
    fn a_singular_covariance_has_a_factor() {
        let mut a = Square::zero(2);
        for i in 0..2 {
            for j in 0..2 {
                a.add(i, j, 1.0);
            }
        }
        let l = a.cholesky();
        assert_eq!((l.at(0, 0), l.at(1, 0), l.at(1, 1)), (1.0, 1.0, 0.0));
    }
}
